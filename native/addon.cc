#include "addon.h"

#include <errno.h>

#include <new>

#include "files.h"
#include "js.h"
#include "sys.h"

// The memory that the addon shares with JavaScript (src/core/binding.ts contains the offsets).
//
// JavaScript makes most requests while it handles results. A call of the addon for each of them would be a fifth of
// what a connection costs beyond its system calls. So JavaScript counts requests without a timeout here, and the addon
// adds them to the queue afterwards.
struct Addon::Shared {
  Listener::Completion completions[Listener::kMaxBatch];
  double listener;  // the id of the listener whose requests may be counted, or 0
  double last_ref;  // the ref of its newest request
  double room;      // the number of requests that may still be counted
};

Addon::Addon(Napi::Env env, Napi::Object exports) : env_(env) {
  // Does not use uv_default_loop(), which returns the loop of the main thread even in a worker thread.
  napi_status status = napi_get_uv_event_loop(env, &loop_);
  if (status != napi_ok) throw Napi::Error::New(env, "cannot get the event loop of the environment");

  auto buffer = Napi::ArrayBuffer::New(env, sizeof(Shared));
  shared_ = Napi::Persistent(buffer);
  exports.Set("shared", buffer);
  auto setter = [&](const char* name, Napi::FunctionReference* callback) {
    auto set = [this, callback](const Napi::CallbackInfo& info) { set_callback(info, callback); };
    exports.Set(name, Napi::Function::New(env, set, name));
  };
  setter("setDeliver", &deliver_);
  setter("setReady", &on_ready_);

  // The cleanup hook must be asynchronous. Closing a libuv handle takes a turn of the loop, and libuv aborts the
  // process if a loop ends with an open handle. After a synchronous hook, Node would destroy the Addon before the
  // callbacks of uv_close() use it.
  //
  // The hook is registered last, so that no hook refers to a destroyed Addon if an earlier step throws. An earlier step
  // throws, for example, in a worker that is terminated while it loads the addon.
  status = napi_add_async_cleanup_hook(
      env, [](napi_async_cleanup_hook_handle, void* addon) { static_cast<Addon*>(addon)->end(); }, this, &cleanup_);
  if (status != napi_ok) throw Napi::Error::New(env, "cannot add a cleanup hook to the environment");
}

void Addon::set_callback(const Napi::CallbackInfo& info, Napi::FunctionReference* callback) {
  if (!info[0].IsFunction()) js::throw_type_error(env_, "expected a function");
  *callback = Napi::Persistent(info[0].As<Napi::Function>());
}

int Addon::open_listener(int fd, Listener::Options options, ListenerObject* object, Listener** result) {
  if (ending_) return -ECANCELED;
  if (!owned_.has(fd)) return -EBADF;
  options.origin = origin_of(fd);
  int error = Listener::create(loop_, fd, options, this, result);
  if (error != 0) return error;
  bool added = listening_.add(fd);
  try {
    if (added) listeners_.insert(*result);
  } catch (const std::bad_alloc&) {
    added = false;
  }
  if (!added) {
    detach_listener(*result);
    *result = nullptr;
    return -ENOMEM;
  }
  release(fd);
  (*result)->data = object;
  (*result)->id = ++last_id_;
  return 0;
}

int Addon::detach_listener(Listener* listener) {
  if (listener == delivering_) {
    collect();
    delivering_ = nullptr;
  }
  int fd = listener->detach();
  listening_.remove(fd);
  return fd;
}

int Addon::close_listener(Listener* listener, int* unremoved) {
  int fd = detach_listener(listener);
  auto close_listening = [this](int each) {
    close(each, false);
    return 0;
  };
  return fd < 0 ? fd : paths_.close(fd, close_listening, unremoved);
}

int Addon::prepare_transfer(int fd) {
  if (!owned_.has(fd)) return -EBADF;
  sys::File file = {};
  int error = files::identify(fd, &file);
  // If identify() fails, the recorded inode is 0, which matches no file, and end() does not close the fd.
  if (error != -EBADF) in_transfer_ = {fd, file.inode};
  return error;
}

namespace {
// Duplicates the socket, closes `fd` and returns the duplicate. close(2) of a socket does not block while a duplicate
// exists. The number `fd` is free at once, as JavaScript expects after close().
//
// Returns `fd` itself at the fd limit. Also returns `fd` for a file other than a socket, because each close(2) of such
// a file can block.
int move_to_other_number(int fd) {
  int type;
  socklen_t length = sizeof type;
  if (sys::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0) return fd;
  int copy = sys::dup_cloexec(fd);
  if (copy < 0) return fd;
  sys::close(fd);
  return copy;
}
}  // namespace

bool Addon::own(int fd, Origin origin) {
  inherited_.remove(fd);
  untrusted_.remove(fd);
  if (origin == Origin::kInherited && !inherited_.add(fd)) return false;
  if (origin == Origin::kUntrusted && !untrusted_.add(fd)) return false;
  return owned_.add(fd);
}

Origin Addon::origin_of(int fd) const {
  if (untrusted_.has(fd)) return Origin::kUntrusted;
  return inherited_.has(fd) ? Origin::kInherited : Origin::kOwn;
}

bool Addon::detach(int fd) {
  paths_.forget(fd);
  const bool untrusted = untrusted_.has(fd);
  if (!release(fd)) return false;
  sys::File file;
  if (!untrusted || files::identify(fd, &file) != 0) return true;
  try {
    detached_untrusted_[fd] = file.inode;
  } catch (const std::bad_alloc&) {
    // If JavaScript hands the fd back, closing it may block the event loop.
  }
  return true;
}

bool Addon::is_detached_untrusted(int fd) const {
  auto detached = detached_untrusted_.find(fd);
  sys::File file;
  return detached != detached_untrusted_.end() && files::identify(fd, &file) == 0 && file.inode == detached->second;
}

int Addon::close_owned(int fd, Closer::How how) {
  if (!release(fd)) return -EBADF;
  if (origin_of(fd) != Origin::kUntrusted) {
    close_by_origin(fd, how);
  } else if (closer_.may_wait()) {
    closer_.close_and_wait(fd, how);
  } else {
    closer_.close(move_to_other_number(fd), how);
  }
  return 0;
}

void Addon::close_by_origin(int fd, Closer::How how) {
  const Origin origin = origin_of(fd);
  if (origin == Origin::kUntrusted) {
    closer_.close(fd, how);
  } else if (how == Closer::How::kReset) {
    sys::reset(fd);
  } else {
    if (origin == Origin::kInherited) Closer::clear_linger(fd);
    paths_.close(fd, sys::close);
  }
}

// close(2) of a listening TCP socket does not block, and the reset of a TCP connection does not block either. close(2)
// of a unix socket can block, because its unread messages and queued connections can contain fds. close(2) of a socket
// that no longer listens can block too: another process that shares the socket may have connected it.
bool Addon::close(int fd, bool reset) {
  int domain = 0;
  int listening = 0;
  socklen_t length = sizeof(int);
  const bool known = sys::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 &&
                     sys::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) == 0;
  if (!known || domain == AF_UNIX || (listening == 0 && !reset)) {
    return closer_.close_and_wait(fd, reset ? Closer::How::kReset : Closer::How::kClose);
  }
  if (reset) {
    sys::reset(fd);
  } else {
    sys::close(fd);
  }
  return true;
}

Listener::Completion* Addon::completions() {
  Napi::HandleScope scope(env_);
  // A terminated worker still receives the events of the last turn of its loop. If it accepted a connection in that
  // turn, the connection would be lost. Another listener can accept a connection that stays in the accept queue.
  // Node-API has no function that reports termination, so this function makes a harmless call that fails in a
  // terminated worker.
  napi_value undefined = env_.Undefined();
  bool same;
  if (ending_ || napi_strict_equals(env_, undefined, undefined, &same) != napi_ok) return nullptr;
  Shared* memory = shared();
  return memory == nullptr ? nullptr : memory->completions;
}

// Returns null if JavaScript has detached the memory. So it is looked up each time.
Addon::Shared* Addon::shared() {
  Napi::HandleScope scope(env_);
  void* data;
  size_t length;
  if (napi_get_arraybuffer_info(env_, shared_.Value(), &data, &length) != napi_ok) return nullptr;
  return length == sizeof(Shared) ? static_cast<Shared*>(data) : nullptr;
}

void Addon::grant() {
  Shared* memory = delivering_ == nullptr ? nullptr : shared();
  if (memory == nullptr) return;
  granted_ = delivering_->reserve();
  memory->listener = static_cast<double>(delivering_->id);
  memory->last_ref = static_cast<double>(delivering_->requests().last_ref());
  memory->room = static_cast<double>(granted_);
}

// Adds the requests that JavaScript has counted since grant(). Called before anything else is done with the listener.
void Addon::collect() {
  Shared* memory = granted_ == 0 ? nullptr : shared();
  const size_t granted = granted_;
  granted_ = 0;
  if (memory == nullptr) return;
  memory->listener = 0;
  // JavaScript may have written any number.
  const double counted = memory->last_ref - static_cast<double>(delivering_->requests().last_ref());
  if (counted >= 1) delivering_->add(counted < static_cast<double>(granted) ? static_cast<size_t>(counted) : granted);
}

void Addon::deliver(Listener* listener, size_t count, Listener::Capacity capacity) {
  if (listener->data == nullptr || deliver_.IsEmpty()) return;
  Napi::HandleScope scope(env_);
  napi_value arguments[] = {Napi::Number::New(env_, static_cast<double>(count)),
                            Napi::Number::New(env_, capacity.error), Napi::Number::New(env_, capacity.delay)};
  auto* object = static_cast<ListenerObject*>(listener->data);
  // A handler can run a nested turn of the loop, in which another listener delivers, or this one again.
  collect();
  delivering_ = listener;
  grant();
  enter(object->context(), object->value(), deliver_, 3, arguments);
  collect();
  delivering_ = nullptr;
}

void Addon::enter(napi_async_context context, napi_value receiver, const Napi::FunctionReference& callback,
                  size_t count, const napi_value* arguments) {
  // napi_make_callback() runs the promise continuations when the callback returns. napi_call_function() does not.
  napi_status status = napi_make_callback(env_, context, receiver, callback.Value(), count, arguments, nullptr);
  if (status != napi_pending_exception) return;
  napi_value exception;
  if (napi_get_and_clear_last_exception(env_, &exception) == napi_ok) napi_fatal_exception(env_, exception);
}

void Addon::ready(const Readiness::Event* events, size_t count) {
  if (completions() == nullptr || on_ready_.IsEmpty()) return;
  Napi::HandleScope scope(env_);
  // Two numbers for each event: the fd and its flags, 1 for an exceptional condition plus 2 for room to write.
  napi_value flat;
  if (napi_create_array_with_length(env_, 2 * count, &flat) != napi_ok) return;
  for (uint32_t i = 0; i < count; i++) {
    napi_set_element(env_, flat, 2 * i, Napi::Number::New(env_, events[i].fd));
    napi_set_element(env_, flat, 2 * i + 1,
                     Napi::Number::New(env_, (events[i].exceptional ? 1 : 0) + (events[i].writable ? 2 : 0)));
  }
  // No async context is needed here, because each wait for readiness is a promise with its own async context.
  napi_value receiver;
  if (napi_get_global(env_, &receiver) == napi_ok) enter(nullptr, receiver, on_ready_, 1, &flat);
}

void Addon::readiness_closed() {
  readiness_open_ = false;
  end_if_all_closed();
}

void Addon::hold(Listener* listener, bool in_use) {
  if (listener->data != nullptr) static_cast<ListenerObject*>(listener->data)->hold(in_use);
}

void Addon::closed(Listener* listener) {
  listeners_.erase(listener);
  end_if_all_closed();
}

// Called when the environment ends. From then on, no requests can come, and JavaScript no longer holds the accepted
// fds.
void Addon::end() {
  ending_ = true;
  for (Listener* listener : listeners_) {
    auto* object = static_cast<ListenerObject*>(listener->data);
    close_listener(listener);
    if (object != nullptr) object->forget();
  }
  readiness_open_ = readiness_.close();
  owned_.drain([this](int fd) {
    sys::File now;
    if (fd == in_transfer_.fd && (files::identify(fd, &now) != 0 || now.inode != in_transfer_.inode)) return;
    close_by_origin(fd, Closer::How::kClose);
  });
  closer_.end();
  end_if_all_closed();
}

void Addon::end_if_all_closed() {
  if (!ending_ || !listeners_.empty() || readiness_open_) return;
  napi_remove_async_cleanup_hook(cleanup_);
}
