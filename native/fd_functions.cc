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

// Makes the environment the owner of `fd` and returns `fd`. Returns a negative errno unchanged. If memory runs out,
// closes the fd and returns -ENOMEM.
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

// socket(domain, type, protocol): returns an owned fd. If `protocol` is undefined, the kernel selects the protocol.
Value socket(const CallbackInfo& info) {
  int protocol = info[2].IsUndefined() ? 0 : js::to_int(info[2]);
  return number(info, own(info, sys::socket(js::to_int(info[0]), js::to_int(info[1]), protocol)));
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

// bindPath(fd, path, absolute): binds a unix socket to `path`. `absolute` is the same path in absolute form. It is
// removed when the owned `fd` is closed. If `absolute` is undefined, nothing is removed.
Value bind_path(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  std::string absolute = info[2].IsUndefined() ? "" : js::to_string(info[2]);
  sockaddrs::Sockaddr address;
  int error = sockaddrs::from_path(js::to_string(info[1]), &address);
  if (error == 0) error = sys::bind(fd, &address.storage.any, address.length);
  if (error != 0 || absolute.empty()) return number(info, error);
  // The path is recorded in the same call as bind(2), because a worker may be terminated between two calls.
  return number(info, Addon::of(info.Env())->paths().add(fd, absolute));
}

// sharePath(fd): records that another process has received the listening socket.
Value share_path(const CallbackInfo& info) {
  Addon::of(info.Env())->paths().share(js::to_int(info[0]));
  return info.Env().Undefined();
}

// listen(fd, backlog)
Value listen(const CallbackInfo& info) { return number(info, sys::listen(js::to_int(info[0]), js::to_int(info[1]))); }

// connectPath(fd, path): connects an owned unix socket and makes it untrusted. From then on, the peer can send fds, and
// close(2) also closes the fds in unread messages.
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

// Returns the origin of an fd that JavaScript passes by its number. A unix socket is untrusted, because any process
// with permission to connect can send fds of any kind. A file other than a socket is untrusted too.
Origin origin_of(const CallbackInfo& info, int fd) {
  int domain = AF_UNIX;
  socklen_t length = sizeof domain;
  sys::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length);
  if (domain == AF_UNIX) return Origin::kUntrusted;
  const Addon* addon = Addon::of(info.Env());
  const bool untrusted =
      addon->owns(fd) ? addon->origin_of(fd) == Origin::kUntrusted : addon->is_detached_untrusted(fd);
  return untrusted ? Origin::kUntrusted : Origin::kInherited;
}

// adopt(fd): takes ownership of the fd and makes it close-on-exec and non-blocking. Returns -EEXIST if it already has
// an owner in this environment.
Value adopt(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  Addon* addon = Addon::of(info.Env());
  if (addon->owned().has(fd) || addon->is_listening(fd)) return number(info, -EEXIST);
  int error = sys::set_cloexec(fd);
  if (error == 0) error = sys::set_nonblock(fd);
  if (error == 0 && !addon->own(fd, origin_of(info, fd))) error = -ENOMEM;
  return number(info, error);
}

// setCloexec(fd): sets close-on-exec on an fd that this process has inherited.
Value set_cloexec(const CallbackInfo& info) { return number(info, sys::set_cloexec(js::to_int(info[0]))); }

// duplicate(fd): returns an owned, non-blocking duplicate. The original becomes non-blocking too, because both share an
// open file description.
Value duplicate(const CallbackInfo& info) {
  int original = js::to_int(info[0]);
  int fd = sys::dup_cloexec(original);
  int error = fd < 0 ? fd : sys::set_nonblock(fd);
  if (fd >= 0 && error != 0) Addon::of(info.Env())->discard(fd);
  return number(info, own(info, error == 0 ? fd : error, origin_of(info, original)));
}

// copy(fd): returns an owned duplicate of a file of any kind. O_NONBLOCK of the open file description stays unchanged,
// unlike in duplicate().
Value copy(const CallbackInfo& info) {
  return number(info, own(info, sys::dup_cloexec(js::to_int(info[0])), Origin::kUntrusted));
}

// checkOpen(fd): returns 0, or -EBADF if the fd is not open.
Value check_open(const CallbackInfo& info) { return number(info, sys::check_open(js::to_int(info[0]))); }

// detach(fd): transfers the fd to the caller, which may hand it back. Returns false if the environment does not own it.
Value detach(const CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), Addon::of(info.Env())->detach(js::to_int(info[0])));
}

// release(fd): gives up ownership because another object of this thread now owns the fd. Returns false if the
// environment does not own it.
Value release(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  Addon* addon = Addon::of(info.Env());
  addon->paths().forget(fd);
  return Napi::Boolean::New(info.Env(), addon->release(fd));
}

// prepareTransfer(fd): must be called before a libuv handle takes ownership of the fd. When the handle owns the fd, the
// caller calls release().
Value prepare_transfer(const CallbackInfo& info) {
  return number(info, Addon::of(info.Env())->prepare_transfer(js::to_int(info[0])));
}

// close(fd): closes an fd that the environment owns. Returns -EBADF for any other fd, because a stale number may refer
// to a file that was opened later. If close(2) may block, another thread closes the fd. The file may then still be open
// when this function returns.
Value close(const CallbackInfo& info) {
  return number(info, Addon::of(info.Env())->close_owned(js::to_int(info[0]), Closer::How::kClose));
}

// reset(fd): like close(), but sends a reset to a TCP peer.
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

// socketPair(type): returns two owned fds. The first is non-blocking. The second is blocking, because programs expect
// an inherited fd to be blocking.
Value socket_pair(const CallbackInfo& info) {
  int fds[2];
  int error = sys::socketpair(js::to_int(info[0]), fds);
  if (error == 0) sys::set_nonblock(fds[0]);
  return own_both(info, error, fds, Origin::kUntrusted);
}

// pipe(): returns two owned fds, the read end and the write end.
Value pipe(const CallbackInfo& info) {
  int fds[2];
  int error = sys::pipe(fds);
  return own_both(info, error, fds);
}

// execHelper(lowest): returns an owned fd of the program in exec_helper.h. The fd is at least `lowest`.
Value exec_helper_fd(const CallbackInfo& info) {
  return number(info, own(info, exec_helper::open(js::to_int(info[0]))));
}

// execHelperImage(): returns a copy of the program itself.
Value exec_helper_image(const CallbackInfo& info) {
  return Napi::Buffer<uint8_t>::Copy(info.Env(), exec_helper::image(), exec_helper::size());
}

// The largest mapping. It limits what an invalid call can map.
constexpr int64_t kMaxMapped = 64 << 20;

// mapShared(fd, length): returns an ArrayBuffer of the first `length` bytes of a file, which other processes may map,
// too. The bytes beyond the end of the file must not be accessed. The mapping lasts until the process ends.
Value map_shared(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  int64_t length = js::to_integer(info[1]);
  if (length < 1 || length > kMaxMapped) js::throw_type_error(info.Env(), "expected a length from 1 to 64 MiB");
  void* address = nullptr;
  int error = sys::mmap_shared(fd, static_cast<size_t>(length), &address);
  if (error != 0) return number(info, error);
  return Napi::ArrayBuffer::New(info.Env(), address, static_cast<size_t>(length));
}

// reap(pid): releases a child that has ended and that libuv does not know. Returns the pid; 0 if it has not ended.
Value reap(const CallbackInfo& info) {
  int pid = js::to_int(info[0]);
  if (pid <= 0) js::throw_type_error(info.Env(), "expected a pid");
  return number(info, sys::wait(pid));
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
  js::define(exports, "mapShared", map_shared);
  js::define(exports, "reap", reap);
}

}  // namespace fd_functions
