#include "fd_functions.h"

#include <errno.h>

#include <string>

#include "addon.h"
#include "exec_helper.h"
#include "js.h"
#include "sockaddr.h"
#include "sys.h"

namespace fd_functions {
namespace {

using js::number;
using Napi::CallbackInfo;
using Napi::Value;

// The environment owns `fd`, unless it is a negative errno; the result is the same number, or what went wrong.
int own(const CallbackInfo& info, int fd, Origin origin = Origin::kOwn) {
  Addon* addon = Addon::of(info.Env());
  if (fd < 0 || addon->own(fd, origin)) return fd;
  if (origin == Origin::kUntrusted) {
    addon->discard(fd);
  } else {
    sys::close(fd);
  }
  return -ENOMEM;
}

// socket(domain, type): an owned fd.
Value socket(const CallbackInfo& info) {
  return number(info, own(info, sys::socket(js::to_int(info[0]), js::to_int(info[1]))));
}

Value bind_to(const CallbackInfo& info, int error, const sockaddrs::Sockaddr& address) {
  if (error == 0) error = sys::bind(js::to_int(info[0]), &address.storage.any, address.length);
  return number(info, error);
}

// bindIp(fd, address, port)
Value bind_ip(const CallbackInfo& info) {
  sockaddrs::Sockaddr address;
  auto port = static_cast<uint16_t>(js::to_int(info[2]));
  return bind_to(info, sockaddrs::from_ip(js::to_string(info[1]), port, &address), address);
}

// bindPath(fd, path, absolute): `absolute` is where the path is removed when an owned `fd` is closed, or undefined.
Value bind_path(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  std::string absolute = info[2].IsUndefined() ? "" : js::to_string(info[2]);
  sockaddrs::Sockaddr address;
  int error = sockaddrs::from_path(js::to_string(info[1]), &address);
  if (error == 0) error = sys::bind(fd, &address.storage.any, address.length);
  if (error != 0 || absolute.empty()) return number(info, error);
  // In the same call as bind: a worker may be terminated between two calls.
  return number(info, Addon::of(info.Env())->paths().add(fd, absolute));
}

// sharePath(fd): another process has got the listening socket.
Value share_path(const CallbackInfo& info) {
  Addon::of(info.Env())->paths().share(js::to_int(info[0]));
  return info.Env().Undefined();
}

// listen(fd, backlog)
Value listen(const CallbackInfo& info) { return number(info, sys::listen(js::to_int(info[0]), js::to_int(info[1]))); }

// connectPath(fd, path): of an owned fd, whose close takes the fds in unread messages with it from now on.
Value connect_path(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  Addon* addon = Addon::of(info.Env());
  sockaddrs::Sockaddr address;
  int error = sockaddrs::from_path(js::to_string(info[1]), &address);
  if (error == 0 && !addon->owned().has(fd)) error = -EBADF;
  if (error == 0 && !addon->own(fd, Origin::kUntrusted)) error = -ENOMEM;
  if (error == 0) error = sys::connect(fd, &address.storage.any, address.length);
  return number(info, error);
}

// setOption(fd, level, name, value): value is an integer or a string.
Value set_option(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  int level = js::to_int(info[1]);
  int name = js::to_int(info[2]);
  if (info[3].IsString()) {
    std::string text = js::to_string(info[3]);
    return number(info, sys::setsockopt(fd, level, name, text.data(), static_cast<socklen_t>(text.size())));
  }
  int value = js::to_int(info[3]);
  return number(info, sys::setsockopt(fd, level, name, &value, sizeof value));
}

// Of an fd that the caller has by its number. Any process that may connect to a unix socket can send fds of any kind to
// it.
Origin origin_of(const CallbackInfo& info, int fd) {
  int domain = AF_UNIX;
  socklen_t length = sizeof domain;
  sys::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length);
  if (domain == AF_UNIX) return Origin::kUntrusted;
  const Addon* addon = Addon::of(info.Env());
  const bool stranger = addon->owns(fd) ? addon->origin_of(fd) == Origin::kUntrusted : addon->is_detached_untrusted(fd);
  return stranger ? Origin::kUntrusted : Origin::kInherited;
}

// adopt(fd): takes it, close-on-exec and non-blocking from now on. -EEXIST when it has an owner here already.
Value adopt(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  Addon* addon = Addon::of(info.Env());
  if (addon->owned().has(fd) || addon->is_listening(fd)) return number(info, -EEXIST);
  int error = sys::set_cloexec(fd);
  if (error == 0) error = sys::set_nonblock(fd);
  if (error == 0 && !addon->own(fd, origin_of(info, fd))) error = -ENOMEM;
  return number(info, error);
}

// setCloexec(fd): of an fd that this process was born with.
Value set_cloexec(const CallbackInfo& info) { return number(info, sys::set_cloexec(js::to_int(info[0]))); }

// duplicate(fd): an owned copy, non-blocking. So is the original then: they share an open file description.
Value duplicate(const CallbackInfo& info) {
  int original = js::to_int(info[0]);
  int fd = sys::dup_cloexec(original);
  int error = fd < 0 ? fd : sys::set_nonblock(fd);
  if (fd >= 0 && error != 0) Addon::of(info.Env())->discard(fd);
  return number(info, own(info, error == 0 ? fd : error, origin_of(info, original)));
}

// copy(fd): an owned copy of a file of any kind. Unlike duplicate(), it leaves O_NONBLOCK of the open file description
// as it is.
Value copy(const CallbackInfo& info) {
  return number(info, own(info, sys::dup_cloexec(js::to_int(info[0])), Origin::kUntrusted));
}

// checkOpen(fd): 0, or -EBADF when it is not open.
Value check_open(const CallbackInfo& info) { return number(info, sys::check_open(js::to_int(info[0]))); }

// detach(fd): gives it to the caller, who may give it back. False when the environment does not own it.
Value detach(const CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), Addon::of(info.Env())->detach(js::to_int(info[0])));
}

// release(fd): something else of this thread has it now. False when the environment does not own it.
Value release(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  Addon* addon = Addon::of(info.Env());
  addon->paths().forget(fd);
  return Napi::Boolean::New(info.Env(), addon->release(fd));
}

// prepareTransfer(fd): called before a libuv handle takes the fd; release() follows when the handle has it.
Value prepare_transfer(const CallbackInfo& info) {
  return number(info, Addon::of(info.Env())->prepare_transfer(js::to_int(info[0])));
}

// close(fd): only what the environment owns, or a number gone stale would close what others have opened since. What can
// take long is closed on another thread, and may still be open when this returns.
Value close(const CallbackInfo& info) {
  return number(info, Addon::of(info.Env())->close_owned(js::to_int(info[0]), Closer::How::kClose));
}

// reset(fd): as close, but a TCP peer gets a reset.
Value reset(const CallbackInfo& info) {
  return number(info, Addon::of(info.Env())->close_owned(js::to_int(info[0]), Closer::How::kReset));
}

Value own_both(const CallbackInfo& info, int error, const int* fds, Origin origin = Origin::kOwn) {
  if (error != 0) return number(info, error);
  Addon* addon = Addon::of(info.Env());
  if (!addon->own(fds[0], origin) || !addon->own(fds[1], origin)) {
    addon->release(fds[0]);
    sys::close(fds[0]);
    sys::close(fds[1]);
    return number(info, -ENOMEM);
  }
  auto result = Napi::Array::New(info.Env(), 2);
  result.Set(0u, fds[0]);
  result.Set(1u, fds[1]);
  return result;
}

// socketPair(type): two owned fds, of which the second one blocks, as another program expects of what it inherits.
Value socket_pair(const CallbackInfo& info) {
  int fds[2];
  int error = sys::socketpair(js::to_int(info[0]), fds);
  if (error == 0) sys::set_nonblock(fds[0]);
  return own_both(info, error, fds, Origin::kUntrusted);
}

// pipe(): two owned fds, to read from and to write to.
Value pipe(const CallbackInfo& info) {
  int fds[2];
  int error = sys::pipe(fds);
  return own_both(info, error, fds);
}

// execHelper(lowest): an owned fd of the program in exec_helper.h, no lower than `lowest`.
Value exec_helper_fd(const CallbackInfo& info) {
  return number(info, own(info, exec_helper::open(js::to_int(info[0]))));
}

// execHelperImage(): the program itself, a copy.
Value exec_helper_image(const CallbackInfo& info) {
  return Napi::Buffer<uint8_t>::Copy(info.Env(), exec_helper::image(), exec_helper::size());
}

}  // namespace

void define(Napi::Object exports) {
  js::define(exports, "socket", socket);
  js::define(exports, "bindIp", bind_ip);
  js::define(exports, "bindPath", bind_path);
  js::define(exports, "sharePath", share_path);
  js::define(exports, "listen", listen);
  js::define(exports, "connectPath", connect_path);
  js::define(exports, "setOption", set_option);
  js::define(exports, "adopt", adopt);
  js::define(exports, "setCloexec", set_cloexec);
  js::define(exports, "duplicate", duplicate);
  js::define(exports, "copy", copy);
  js::define(exports, "checkOpen", check_open);
  js::define(exports, "detach", detach);
  js::define(exports, "release", release);
  js::define(exports, "prepareTransfer", prepare_transfer);
  js::define(exports, "close", close);
  js::define(exports, "reset", reset);
  js::define(exports, "socketPair", socket_pair);
  js::define(exports, "pipe", pipe);
  js::define(exports, "execHelper", exec_helper_fd);
  js::define(exports, "execHelperImage", exec_helper_image);
}

}  // namespace fd_functions
