#include "addon.h"

#include <errno.h>

#include <new>

#include "files.h"
#include "js.h"
#include "sys.h"

Addon::Addon(Napi::Env env, Napi::Object exports) : env_(env) {
  // Not uv_default_loop(): that one is the main thread's, whoever asks.
  napi_status status = napi_get_uv_event_loop(env, &loop_);
  if (status != napi_ok) throw Napi::Error::New(env, "the environment gives no event loop");

  auto buffer = Napi::ArrayBuffer::New(env, sizeof(Listener::Completion) * Listener::kMaxBatch);
  completions_ = Napi::Persistent(buffer);
  exports.Set("completions", buffer);
  auto setter = [&](const char* name, Napi::FunctionReference* callback) {
    auto set = [this, callback](const Napi::CallbackInfo& info) { set_callback(info, callback); };
    exports.Set(name, Napi::Function::New(env, set, name));
  };
  setter("setDeliver", &deliver_);
  setter("setReady", &on_ready_);

  // Closing a libuv handle takes a turn of the loop, and libuv aborts when a loop ends with a handle open; so the hook
  // has to be an asynchronous one. A synchronous one would return before the callbacks of uv_close, and they would
  // find their code unloaded. It comes last: whatever throws before it, in a worker that is terminated while it loads
  // the addon, leaves no Addon to call.
  status = napi_add_async_cleanup_hook(
      env, [](napi_async_cleanup_hook_handle, void* addon) { static_cast<Addon*>(addon)->end(); }, this, &cleanup_);
  if (status != napi_ok) throw Napi::Error::New(env, "the environment takes no cleanup hook");
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
  try {
    listeners_.insert(*result);
  } catch (const std::bad_alloc&) {
    (*result)->detach();
    *result = nullptr;
    return -ENOMEM;
  }
  release(fd);
  (*result)->data = object;
  return 0;
}

int Addon::close_listener(Listener* listener, int* unremoved) {
  int fd = listener->detach();
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
  // Without an answer no inode is the same, and the environment's end leaves the fd alone.
  if (error != -EBADF) in_transfer_ = {fd, file.inode};
  return error;
}

namespace {
// A copy of a socket, whose own number is closed. As long as there is a copy, close(2) of a socket does not wait; and a
// number that is still open after its close would mislead JavaScript. The fd itself where there is no room for a copy,
// and for files, whose close(2) can wait each time.
int free_number(int fd) {
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
  const bool stranger = untrusted_.has(fd);
  if (!release(fd)) return false;
  sys::File file;
  if (!stranger || files::identify(fd, &file) != 0) return true;
  try {
    detached_untrusted_[fd] = file.inode;
  } catch (const std::bad_alloc&) {
    // Its close may then wait on the loop.
  }
  return true;
}

bool Addon::is_detached_untrusted(int fd) const {
  auto given = detached_untrusted_.find(fd);
  sys::File file;
  return given != detached_untrusted_.end() && files::identify(fd, &file) == 0 && file.inode == given->second;
}

int Addon::close_owned(int fd, Closer::How how) {
  if (!release(fd)) return -EBADF;
  if (origin_of(fd) != Origin::kUntrusted) {
    close_by_origin(fd, how);
  } else if (closer_.is_quick()) {
    closer_.close_soon(fd, how);
  } else {
    closer_.close(free_number(fd), how);
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

// A listening TCP socket closes at once, and so does a TCP connection that is reset. A unix socket has messages with
// fds, also in its backlog; what does not listen any more may have been connected by another process that has it.
bool Addon::close(int fd, bool reset) {
  int domain = 0;
  int listening = 0;
  socklen_t length = sizeof(int);
  const bool known = sys::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 &&
                     sys::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) == 0;
  if (!known || domain == AF_UNIX || (listening == 0 && !reset)) {
    return closer_.close_soon(fd, reset ? Closer::How::kReset : Closer::How::kClose);
  }
  if (reset) {
    sys::reset(fd);
  } else {
    sys::close(fd);
  }
  return true;
}

bool Addon::is_listening(int fd) const {
  for (const Listener* listener : listeners_) {
    if (listener->fd() == fd) return true;
  }
  return false;
}

Listener::Completion* Addon::completions() {
  Napi::HandleScope scope(env_);
  // A terminated worker still gets the events of its loop's last turn. What it accepted then would be lost; what it
  // leaves in the backlog another listener can take. Node-API has no question for it but a call that it refuses.
  napi_value undefined = env_.Undefined();
  bool same;
  if (ending_ || napi_strict_equals(env_, undefined, undefined, &same) != napi_ok) return nullptr;
  // Asked each time, because JavaScript can detach the buffer.
  void* data;
  size_t length;
  if (napi_get_arraybuffer_info(env_, completions_.Value(), &data, &length) != napi_ok) return nullptr;
  bool whole = length == sizeof(Listener::Completion) * Listener::kMaxBatch;
  return whole ? static_cast<Listener::Completion*>(data) : nullptr;
}

void Addon::deliver(Listener* listener, size_t count, Listener::Capacity capacity) {
  if (listener->data == nullptr || deliver_.IsEmpty()) return;
  Napi::HandleScope scope(env_);
  napi_value arguments[] = {Napi::Number::New(env_, static_cast<double>(count)),
                            Napi::Number::New(env_, capacity.error), Napi::Number::New(env_, capacity.delay)};
  auto* object = static_cast<ListenerObject*>(listener->data);
  enter(object->context(), object->value(), deliver_, 3, arguments);
}

void Addon::enter(napi_async_context context, napi_value receiver, const Napi::FunctionReference& callback,
                  size_t count, const napi_value* arguments) {
  // napi_make_callback and not napi_call_function: promise continuations must run when it returns.
  napi_status status = napi_make_callback(env_, context, receiver, callback.Value(), count, arguments, nullptr);
  if (status != napi_pending_exception) return;
  napi_value exception;
  if (napi_get_and_clear_last_exception(env_, &exception) == napi_ok) napi_fatal_exception(env_, exception);
}

void Addon::ready(const Readiness::Event* events, size_t count) {
  if (completions() == nullptr || on_ready_.IsEmpty()) return;
  Napi::HandleScope scope(env_);
  // Two numbers for each: the fd, and 1 for an exceptional condition, plus 2 if there is room to write.
  napi_value flat;
  if (napi_create_array_with_length(env_, 2 * count, &flat) != napi_ok) return;
  for (uint32_t i = 0; i < count; i++) {
    napi_set_element(env_, flat, 2 * i, Napi::Number::New(env_, events[i].fd));
    napi_set_element(env_, flat, 2 * i + 1,
                     Napi::Number::New(env_, (events[i].exceptional ? 1 : 0) + (events[i].writable ? 2 : 0)));
  }
  // Each of those that wait is a promise, and has its own context.
  napi_value receiver;
  if (napi_get_global(env_, &receiver) == napi_ok) enter(nullptr, receiver, on_ready_, 1, &flat);
}

void Addon::readiness_closed() {
  readiness_open_ = false;
  end_if_all_closed();
}

void Addon::hold(Listener* listener, bool outstanding) {
  if (listener->data != nullptr) static_cast<ListenerObject*>(listener->data)->hold(outstanding);
}

void Addon::closed(Listener* listener) {
  listeners_.erase(listener);
  end_if_all_closed();
}

// The environment ends: nobody will ask any more, and nobody holds what was accepted.
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
