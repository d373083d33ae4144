#include "listener_handle.h"

#include <errno.h>

#include <algorithm>

#include "js.h"

// The methods do not check their receiver. V8 checks the signature of each method that DefineClass creates, and rejects
// a receiver of another class.
void ListenerHandle::define(Napi::Env env, Napi::Object exports) {
  exports.Set("ListenerHandle", DefineClass(env, "ListenerHandle",
                                            {
                                                InstanceMethod<&ListenerHandle::open>("open"),
                                                InstanceMethod<&ListenerHandle::ask>("ask"),
                                                InstanceMethod<&ListenerHandle::cancel>("cancel"),
                                                InstanceMethod<&ListenerHandle::outstanding>("outstanding"),
                                                InstanceMethod<&ListenerHandle::pending>("pending"),
                                                InstanceMethod<&ListenerHandle::stats>("stats"),
                                                InstanceMethod<&ListenerHandle::close>("close"),
                                                InstanceMethod<&ListenerHandle::detach>("detach"),
                                                InstanceMethod<&ListenerHandle::keep_alive>("keepAlive"),
                                                InstanceMethod<&ListenerHandle::set_held>("hold"),
                                            }));
  exports.Set("maxBatch", Napi::Number::New(env, Listener::kMaxBatch));
}

Napi::Object ListenerHandle::resource(const Napi::CallbackInfo& info) {
  auto resource = Napi::Object::New(info.Env());
  info.This().As<Napi::Object>().Set("resource", resource);
  return resource;
}

// The object is garbage collected before close() only if the listener is not in use.
ListenerHandle::~ListenerHandle() {
  if (Listener* listener = listener_) {
    forget();
    Addon::of(Env())->close_listener(listener);
  }
}

void ListenerHandle::forget() {
  if (listener_ == nullptr) return;
  last_stats_ = listener_->stats();
  listener_->data = nullptr;
  listener_ = nullptr;
}

void ListenerHandle::hold(bool in_use) {
  if (in_use) {
    Ref();
  } else {
    Unref();
  }
}

// open(fd, maxBatch, resetAtLimit): takes ownership of an owned fd and returns the id of the listener, or returns a
// negative errno.
Napi::Value ListenerHandle::open(const Napi::CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  auto max_batch = std::clamp<int64_t>(js::to_integer(info[1]), 1, Listener::kMaxBatch);
  bool reset_at_limit = js::to_bool(info[2]);
  int error = -EALREADY;
  if (listener_ == nullptr) {
    error =
        Addon::of(info.Env())->open_listener(fd, {static_cast<size_t>(max_batch), reset_at_limit}, this, &listener_);
  }
  return js::number(info, error == 0 ? static_cast<double>(listener_->id) : error);
}

// ask(timeout): returns the ref of the new request, 0 if the listener is closed, or -ENOMEM if memory runs out.
Napi::Value ListenerHandle::ask(const Napi::CallbackInfo& info) {
  return js::or_enomem(info, [&] {
    int64_t timeout = js::to_integer(info[0]);
    Addon* addon = Addon::of(info.Env());
    addon->collect();
    Listener::Ref ref = listener_ == nullptr ? 0 : listener_->ask(timeout);
    addon->grant();
    return js::number(info, static_cast<double>(ref));
  });
}

// cancel(ref): cancels the request. Returns true if the request was outstanding.
Napi::Value ListenerHandle::cancel(const Napi::CallbackInfo& info) {
  Listener::Ref ref = js::to_integer(info[0]);
  Addon::of(info.Env())->collect();
  return Napi::Boolean::New(info.Env(), listener_ != nullptr && listener_->cancel(ref));
}

// outstanding(): returns the refs of the outstanding requests, oldest first.
Napi::Value ListenerHandle::outstanding(const Napi::CallbackInfo& info) {
  Addon::of(info.Env())->collect();
  auto refs = Napi::Float64Array::New(info.Env(), listener_ == nullptr ? 0 : listener_->requests().size());
  size_t i = 0;
  if (listener_ != nullptr)
    listener_->requests().each([&](Listener::Ref ref) { refs[i++] = static_cast<double>(ref); });
  return refs;
}

Napi::Value ListenerHandle::pending(const Napi::CallbackInfo& info) {
  Addon::of(info.Env())->collect();
  return js::number(info, listener_ == nullptr ? 0 : static_cast<double>(listener_->requests().size()));
}

// stats(): returns the counters, also after the listener is closed.
Napi::Value ListenerHandle::stats(const Napi::CallbackInfo& info) {
  Listener::Stats stats = listener_ == nullptr ? last_stats_ : listener_->stats();
  auto result = Napi::Object::New(info.Env());
  auto set = [&](const char* name, uint64_t count) { result.Set(name, static_cast<double>(count)); };
  set("accepted", stats.accepted);
  set("retried", stats.retried);
  set("capacityPauses", stats.capacity_pauses);
  set("reset", stats.reset);
  set("timedOut", stats.timed_out);
  set("cancelled", stats.cancelled);
  set("rejected", stats.rejected);
  return result;
}

// close(): closes the listening fd, then removes its path. Returns 0, or a negative errno if the path could not be
// removed.
Napi::Value ListenerHandle::close(const Napi::CallbackInfo& info) {
  int unremoved = 0;
  if (Listener* listener = listener_) {
    Addon::of(info.Env())->close_listener(listener, &unremoved);
    forget();
  }
  return js::number(info, unremoved);
}

// detach(): transfers the listening fd to the caller. The path stays in the file system. Returns the fd, or -EBADF if
// there is none.
Napi::Value ListenerHandle::detach(const Napi::CallbackInfo& info) {
  int fd = -EBADF;
  if (Listener* listener = listener_) {
    Addon* addon = Addon::of(info.Env());
    fd = addon->detach_listener(listener);
    addon->paths().forget(fd);
    forget();
  }
  return js::number(info, fd);
}

// keepAlive(on): sets whether the listener keeps the process alive while it is in use.
void ListenerHandle::keep_alive(const Napi::CallbackInfo& info) {
  bool on = js::to_bool(info[0]);
  if (listener_ != nullptr) listener_->keep_alive(on);
}

// hold(on): sets whether the listener is in use even without a request.
void ListenerHandle::set_held(const Napi::CallbackInfo& info) {
  bool on = js::to_bool(info[0]);
  if (listener_ != nullptr) listener_->hold(on);
}
