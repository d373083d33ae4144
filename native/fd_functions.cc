#include "fd_functions.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <string>

#include "addon.h"
#include "js.h"
#include "messages.h"
#include "sockaddr.h"
#include "sys.h"
#include "unix_diag.h"

namespace fd_functions {
namespace {

using Napi::CallbackInfo;
using Napi::Value;

constexpr int64_t kMostReceived = 1 << 20;

Value number(const CallbackInfo& info, double value) { return Napi::Number::New(info.Env(), value); }

int get_int(int fd, int name, int* value) {
  socklen_t length = sizeof *value;
  return sys::getsockopt(fd, SOL_SOCKET, name, value, &length);
}

// The environment owns `fd`, unless it is a negative errno; the result is the same number, or what went wrong.
int own(const CallbackInfo& info, int fd) {
  if (fd < 0 || Addon::of(info.Env())->owned().add(fd)) return fd;
  sys::close(fd);
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

// bindPath(fd, path)
Value bind_path(const CallbackInfo& info) {
  sockaddrs::Sockaddr address;
  return bind_to(info, sockaddrs::from_path(js::to_string(info[1]), &address), address);
}

// listen(fd, backlog)
Value listen(const CallbackInfo& info) { return number(info, sys::listen(js::to_int(info[0]), js::to_int(info[1]))); }

// connectPath(fd, path)
Value connect_path(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  sockaddrs::Sockaddr address;
  int error = sockaddrs::from_path(js::to_string(info[1]), &address);
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

// adopt(fd): takes it, close-on-exec and non-blocking from now on. -EEXIST when it has an owner here already.
Value adopt(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  Addon* addon = Addon::of(info.Env());
  if (addon->owned().has(fd) || addon->is_listening(fd)) return number(info, -EEXIST);
  int error = sys::set_cloexec(fd);
  if (error == 0) error = sys::set_nonblock(fd);
  if (error == 0 && !addon->owned().add(fd)) error = -ENOMEM;
  return number(info, error);
}

// setCloexec(fd): of an fd that this process was born with.
Value set_cloexec(const CallbackInfo& info) { return number(info, sys::set_cloexec(js::to_int(info[0]))); }

// duplicate(fd): an owned copy, non-blocking. So is the original then: they share an open file description.
Value duplicate(const CallbackInfo& info) {
  int fd = sys::dup_cloexec(js::to_int(info[0]));
  int error = fd < 0 ? fd : sys::set_nonblock(fd);
  if (fd >= 0 && error != 0) sys::close(fd);
  return number(info, own(info, error == 0 ? fd : error));
}

// release(fd): gives it to the caller. False when the environment does not own it.
Value release(const CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), Addon::of(info.Env())->release(js::to_int(info[0])));
}

// lend(fd): before somebody else takes it; release() comes when they have it.
Value lend(const CallbackInfo& info) { return number(info, Addon::of(info.Env())->lend(js::to_int(info[0]))); }

// close(fd): only what the environment owns, or a number gone stale would close what others have opened since.
Value close(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  return number(info, Addon::of(info.Env())->release(fd) ? sys::close(fd) : -EBADF);
}

// reset(fd): as close, but a TCP peer gets a reset.
Value reset(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  return number(info, Addon::of(info.Env())->release(fd) ? sys::reset(fd) : -EBADF);
}

const char* kind_name(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFSOCK:
      return "socket";
    case S_IFIFO:
      return "fifo";
    case S_IFREG:
      return "file";
    default:
      return "other";
  }
}

// inspect(fd): what it is; for a socket its domain and type, and whether it listens or is connected.
Value inspect(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  sys::File file;
  int error = sys::statx(fd, &file);
  if (error != 0) return number(info, error);
  auto result = Napi::Object::New(info.Env());
  result.Set("kind", kind_name(file.mode));
  if (!S_ISSOCK(file.mode)) return result;
  int domain = 0;
  int type = 0;
  int listening = 0;
  error = get_int(fd, SO_DOMAIN, &domain);
  if (error == 0) error = get_int(fd, SO_TYPE, &type);
  if (error == 0) error = get_int(fd, SO_ACCEPTCONN, &listening);
  if (error != 0) return number(info, error);
  sockaddrs::Sockaddr peer;
  // Sockets that have no peers say so in more ways than one; only for want of memory it is not known.
  int unnamed = sys::getpeername(fd, &peer.storage.any, &peer.length);
  if (unnamed == -ENOBUFS) return number(info, unnamed);
  result.Set("domain", domain);
  result.Set("type", type);
  result.Set("listening", listening != 0);
  result.Set("connected", unnamed == 0);
  return result;
}

// { address, port, family } as net.AddressInfo has them; only { address } for a unix socket.
Value to_address(Napi::Env env, const sockaddrs::Storage& storage, socklen_t length) {
  auto result = Napi::Object::New(env);
  result.Set("address", sockaddrs::to_text(storage, length));
  if (length >= sizeof(sockaddr_in) && storage.family != AF_UNIX) {
    result.Set("port", sockaddrs::port(storage));
    result.Set("family", storage.family == AF_INET6 ? "IPv6" : "IPv4");
  }
  return result;
}

template <int (*name)(int, sockaddr*, socklen_t*)>
Value address_of(const CallbackInfo& info) {
  sockaddrs::Sockaddr found;
  int error = name(js::to_int(info[0]), &found.storage.any, &found.length);
  return error == 0 ? to_address(info.Env(), found.storage, found.length) : number(info, error);
}

// Of a Uint8Array, for as long as no JavaScript runs.
struct Bytes {
  const uint8_t* data;
  size_t length;
};

Bytes to_bytes(const Value& value) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    js::throw_type_error(value.Env(), "expected a Uint8Array");
  }
  auto bytes = value.As<Napi::Uint8Array>();
  return {bytes.Data(), bytes.ByteLength()};
}

// parseAddress(bytes): a struct sockaddr, as a completion has it.
Value parse_address(const CallbackInfo& info) {
  Bytes bytes = to_bytes(info[0]);
  sockaddrs::Storage storage = {};
  size_t length = std::min(bytes.length, sizeof storage);
  if (length > 0) memcpy(&storage, bytes.data, length);  // the data may be null then
  return to_address(info.Env(), storage, static_cast<socklen_t>(length));
}

// peerCredentials(fd): SO_PEERCRED of unix(7), who connected or made the socket pair, at that time.
Value peer_credentials(const CallbackInfo& info) {
  ucred credentials;
  socklen_t length = sizeof credentials;
  int error = sys::getsockopt(js::to_int(info[0]), SOL_SOCKET, SO_PEERCRED, &credentials, &length);
  if (error != 0) return number(info, error);
  auto result = Napi::Object::New(info.Env());
  result.Set("pid", credentials.pid);
  result.Set("uid", credentials.uid);
  result.Set("gid", credentials.gid);
  return result;
}

// backlog(fd): { queued, limit } of a listening socket.
Value backlog(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  int domain = 0;
  int error = get_int(fd, SO_DOMAIN, &domain);
  uint32_t queued = 0;
  uint32_t limit = 0;
  if (error == 0 && domain == AF_UNIX) {
    error = unix_diag::accept_queue(fd, &queued, &limit);
  } else if (error == 0) {
    // For a listening socket Linux puts the accept queue's length and limit where a connected one has segment counts.
    tcp_info tcp = {};
    socklen_t length = sizeof tcp;
    error = sys::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &tcp, &length);
    if (error == 0 && tcp.tcpi_state != TCP_LISTEN) error = -EINVAL;
    queued = tcp.tcpi_unacked;
    limit = tcp.tcpi_sacked;
  }
  if (error != 0) return number(info, error);
  auto result = Napi::Object::New(info.Env());
  result.Set("queued", queued);
  result.Set("limit", limit);
  return result;
}

// watch(fd, writable): from now on the function of setReady is told of it.
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

// receive(fd, length, peek): a Buffer of what is there, at most `length` bytes; empty when the peer has ended its side.
// Only of an owned fd is it taken; to peek does no harm to whoever has it.
Value receive(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  int64_t length = js::to_integer(info[1]);
  bool peek = js::to_bool(info[2]);
  if (length < 0 || length > kMostReceived) js::throw_type_error(info.Env(), "expected 0 to 1048576 bytes");
  if (!peek && !Addon::of(info.Env())->owned().has(fd)) return number(info, -EBADF);
  int flags = MSG_DONTWAIT | (peek ? MSG_PEEK : 0);
  std::unique_ptr<char[]> bytes(new char[length]);
  ssize_t received = sys::recv(fd, bytes.get(), static_cast<size_t>(length), flags);
  if (received < 0) return number(info, static_cast<double>(received));
  return Napi::Buffer<char>::Copy(info.Env(), bytes.get(), static_cast<size_t>(received));
}

// sendMessage(fd, bytes, fds, path?): how many bytes were sent; to a datagram socket at `path`, or to the peer. Borrows
// the fds.
Value send_message(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  if (!info[2].IsArray()) js::throw_type_error(info.Env(), "expected an array of fds");
  auto list = info[2].As<Napi::Array>();
  if (list.Length() > messages::kMostFds) return number(info, -E2BIG);
  int fds[messages::kMostFds];
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
  // After the elements, whose getters may do anything to it.
  Bytes bytes = to_bytes(info[1]);
  if (!Addon::of(info.Env())->owned().has(fd)) return number(info, -EBADF);
  ssize_t sent = messages::send(fd, bytes.data, bytes.length, fds, count, connected ? nullptr : &to);
  return number(info, static_cast<double>(sent));
}

// receiveMessage(fd, length): { bytes, fds, truncated } of what is there; the fds are owned.
Value receive_message(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  int64_t room = js::to_integer(info[1]);
  if (room < 0 || room > kMostReceived) js::throw_type_error(info.Env(), "expected 0 to 1048576 bytes");
  OwnedFds& owned = Addon::of(info.Env())->owned();
  if (!owned.has(fd)) return number(info, -EBADF);
  std::unique_ptr<char[]> bytes(new char[room]);
  messages::Fds received;
  ssize_t length = messages::receive(fd, bytes.get(), static_cast<size_t>(room), &received);
  if (length < 0) return number(info, static_cast<double>(length));
  // Before anything of JavaScript, which can throw.
  size_t count = 0;
  for (size_t i = 0; i < received.count; i++) {
    if (owned.add(received.fds[i])) {
      received.fds[count++] = received.fds[i];
    } else {
      sys::close(received.fds[i]);
      received.truncated = true;
    }
  }
  auto result = Napi::Object::New(info.Env());
  auto fds = Napi::Array::New(info.Env(), count);
  for (uint32_t i = 0; i < count; i++) fds.Set(i, received.fds[i]);
  result.Set("bytes", Napi::Buffer<char>::Copy(info.Env(), bytes.get(), static_cast<size_t>(length)));
  result.Set("fds", fds);
  result.Set("truncated", received.truncated);
  return result;
}

Value own_both(const CallbackInfo& info, int error, const int* fds) {
  if (error != 0) return number(info, error);
  OwnedFds& owned = Addon::of(info.Env())->owned();
  if (!owned.add(fds[0]) || !owned.add(fds[1])) {
    owned.remove(fds[0]);
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
  return own_both(info, error, fds);
}

// pipe(): two owned fds, to read from and to write to.
Value pipe(const CallbackInfo& info) {
  int fds[2];
  int error = sys::pipe(fds);
  return own_both(info, error, fds);
}

// pidfdInode(): of a pidfd of this process, as text because it has 64 bits.
Value pidfd_inode(const CallbackInfo& info) {
  int fd = sys::pidfd_open_self();
  if (fd < 0) return number(info, fd);
  sys::File file;
  int error = sys::statx(fd, &file);
  sys::close(fd);
  if (error != 0) return number(info, error);
  return Napi::String::New(info.Env(), std::to_string(file.inode));
}

struct Constant {
  const char* name;
  int value;
};

// Their values differ between architectures.
constexpr Constant kConstants[] = {
    {"AF_INET", AF_INET},
    {"AF_INET6", AF_INET6},
    {"AF_UNIX", AF_UNIX},
    {"SOCK_STREAM", SOCK_STREAM},
    {"SOCK_DGRAM", SOCK_DGRAM},
    {"SOCK_SEQPACKET", SOCK_SEQPACKET},
    {"SOL_SOCKET", SOL_SOCKET},
    {"SO_REUSEADDR", SO_REUSEADDR},
    {"SO_REUSEPORT", SO_REUSEPORT},
    {"SO_KEEPALIVE", SO_KEEPALIVE},
    {"SO_BINDTODEVICE", SO_BINDTODEVICE},
    {"IPPROTO_IP", IPPROTO_IP},
    {"IP_TRANSPARENT", IP_TRANSPARENT},
    {"IP_FREEBIND", IP_FREEBIND},
    {"IPPROTO_IPV6", IPPROTO_IPV6},
    {"IPV6_V6ONLY", IPV6_V6ONLY},
    {"IPV6_TRANSPARENT", IPV6_TRANSPARENT},
    {"IPV6_FREEBIND", IPV6_FREEBIND},
    {"IPPROTO_TCP", IPPROTO_TCP},
    {"TCP_NODELAY", TCP_NODELAY},
    {"TCP_KEEPIDLE", TCP_KEEPIDLE},
    {"TCP_DEFER_ACCEPT", TCP_DEFER_ACCEPT},
    {"TCP_FASTOPEN", TCP_FASTOPEN},
};

}  // namespace

void define(Napi::Env env, Napi::Object exports) {
  auto add = [&](const char* name, Value (*function)(const CallbackInfo&)) {
    auto call = [function](const CallbackInfo& info) { return js::or_enomem(info, [&] { return function(info); }); };
    exports.Set(name, Napi::Function::New(env, call, name));
  };
  add("socket", socket);
  add("bindIp", bind_ip);
  add("bindPath", bind_path);
  add("listen", listen);
  add("connectPath", connect_path);
  add("setOption", set_option);
  add("adopt", adopt);
  add("setCloexec", set_cloexec);
  add("duplicate", duplicate);
  add("release", release);
  add("lend", lend);
  add("close", close);
  add("reset", reset);
  add("inspect", inspect);
  add("localAddress", address_of<sys::getsockname>);
  add("peerAddress", address_of<sys::getpeername>);
  add("parseAddress", parse_address);
  add("peerCredentials", peer_credentials);
  add("backlog", backlog);
  add("watch", watch);
  add("unwatch", unwatch);
  add("receive", receive);
  add("sendMessage", send_message);
  add("receiveMessage", receive_message);
  add("socketPair", socket_pair);
  add("pipe", pipe);
  add("pidfdInode", pidfd_inode);
  auto constants = Napi::Object::New(env);
  for (const Constant& constant : kConstants) constants.Set(constant.name, constant.value);
  exports.Set("constants", constants);
}

}  // namespace fd_functions
