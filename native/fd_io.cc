#include "fd_io.h"

#include <errno.h>

#include <memory>

#include "addon.h"
#include "js.h"
#include "messages.h"
#include "sockaddr.h"
#include "sys.h"

namespace fd_io {
namespace {

using js::number;
using Napi::CallbackInfo;
using Napi::Value;

// The maximum number of bytes in one receive() or receiveMessage(). It also limits what an invalid call can allocate.
constexpr int64_t kMaxReceived = 1 << 20;

// watch(fd, writable): reports readiness of the fd to the function passed to setReady().
Value watch(const CallbackInfo& info) {
  Addon* addon = Addon::of(info.Env());
  int fd = js::to_int(info[0]);
  bool writable = js::to_bool(info[1]);
  if (!addon->owned().has(fd)) return number(info, -EBADF);
  return number(info, addon->readiness().watch(addon->loop(), fd, writable));
}

// unwatch(fd)
Value unwatch(const CallbackInfo& info) {
  return number(info, Addon::of(info.Env())->readiness().unwatch(js::to_int(info[0])));
}

// Reads bytes and discards the fds that arrive with them. recv(2) would close these fds itself, and would block until
// they are closed.
ssize_t receive_without_fds(Addon* addon, int fd, char* bytes, size_t length) {
  messages::Fds unwanted;
  ssize_t received = messages::receive(fd, bytes, length, &unwanted);
  for (size_t i = 0; i < unwanted.count; i++) addon->discard(unwanted.fds[i]);
  return received >= 0 && unwanted.truncated ? -EMFILE : received;
}

// receive(fd, length, peek): returns a Buffer with at most `length` of the available bytes. The Buffer is empty if the
// peer has shut down its side. Without `peek`, the fd must be owned, because the call then consumes the bytes.
Value receive(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  int64_t length = js::to_integer(info[1]);
  bool peek = js::to_bool(info[2]);
  if (length < 0 || length > kMaxReceived) js::throw_type_error(info.Env(), "expected a length from 0 to maxReceived");
  if (!peek && !Addon::of(info.Env())->owned().has(fd)) return number(info, -EBADF);
  int flags = MSG_DONTWAIT | (peek ? MSG_PEEK : 0);
  std::unique_ptr<char[]> bytes(new char[length]);
  Addon* addon = Addon::of(info.Env());
  ssize_t received;
  if (!peek && addon->origin_of(fd) == Origin::kUntrusted) {
    received = receive_without_fds(addon, fd, bytes.get(), static_cast<size_t>(length));
  } else {
    received = sys::recv(fd, bytes.get(), static_cast<size_t>(length), flags);
  }
  if (received < 0) return number(info, static_cast<double>(received));
  return Napi::Buffer<char>::Copy(info.Env(), bytes.get(), static_cast<size_t>(received));
}

// sendMessage(fd, bytes, fds, path?): sends to the datagram socket at `path`, or to the connected peer. Borrows the
// fds. Returns the number of bytes sent.
Value send_message(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  if (!info[2].IsArray()) js::throw_type_error(info.Env(), "expected an array of fds");
  auto list = info[2].As<Napi::Array>();
  if (list.Length() > messages::kMaxFds) return number(info, -E2BIG);
  int fds[messages::kMaxFds];
  size_t count = 0;
  for (uint32_t i = 0, length = list.Length(); i < length; i++) {
    Napi::Value each = list.Get(i);
    fds[count++] = js::to_int(each);
  }
  sockaddrs::Sockaddr to;
  bool connected = info[3].IsUndefined();
  if (!connected) {
    int error = sockaddrs::from_path(js::to_string(info[3]), &to);
    if (error != 0) return number(info, error);
  }
  // The bytes are looked up after the elements of the array, because a getter of an element can detach or resize them.
  js::Bytes bytes = js::to_bytes(info[1]);
  Addon* addon = Addon::of(info.Env());
  if (!addon->owned().has(fd)) return number(info, -EBADF);
  ssize_t sent = messages::send(fd, bytes.data, bytes.length, fds, count, connected ? nullptr : &to);
  for (size_t i = 0; i < count && sent >= 0; i++) addon->paths().share(fds[i]);
  return number(info, static_cast<double>(sent));
}

// receiveMessage(fd, length): returns { bytes, fds, truncated } of an available message. The environment owns the fds.
Value receive_message(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  int64_t room = js::to_integer(info[1]);
  if (room < 0 || room > kMaxReceived) js::throw_type_error(info.Env(), "expected a length from 0 to maxReceived");
  Addon* addon = Addon::of(info.Env());
  if (!addon->owned().has(fd)) return number(info, -EBADF);
  std::unique_ptr<char[]> bytes(new char[room]);
  messages::Fds received;
  ssize_t length = messages::receive(fd, bytes.get(), static_cast<size_t>(room), &received);
  // The environment takes ownership before any JavaScript value is created, because that can throw.
  size_t count = 0;
  for (size_t i = 0; i < received.count; i++) {
    if (length >= 0 && addon->own(received.fds[i], Origin::kUntrusted)) {
      received.fds[count++] = received.fds[i];
    } else {
      addon->discard(received.fds[i]);
      received.truncated = true;
    }
  }
  if (length < 0) return number(info, static_cast<double>(length));
  auto result = Napi::Object::New(info.Env());
  auto fds = Napi::Array::New(info.Env(), count);
  for (uint32_t i = 0; i < count; i++) fds.Set(i, received.fds[i]);
  result.Set("bytes", Napi::Buffer<char>::Copy(info.Env(), bytes.get(), static_cast<size_t>(length)));
  result.Set("fds", fds);
  result.Set("truncated", received.truncated);
  return result;
}

}  // namespace

void define(Napi::Object exports) {
  exports.Set("maxFds", Napi::Number::New(exports.Env(), messages::kMaxFds));
  exports.Set("maxReceived", Napi::Number::New(exports.Env(), static_cast<double>(kMaxReceived)));
  js::define(exports, "watch", watch);
  js::define(exports, "unwatch", unwatch);
  js::define(exports, "receive", receive);
  js::define(exports, "sendMessage", send_message);
  js::define(exports, "receiveMessage", receive_message);
}

}  // namespace fd_io
