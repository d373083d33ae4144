#include "fd_facts.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>

#include <algorithm>
#include <string>

#include "files.h"
#include "js.h"
#include "sockaddr.h"
#include "sys.h"
#include "unix_diag.h"

// Since Linux 5.14; missing from the headers of some systems on which the addon is built.
#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif

// Since Linux 5.6; likewise.
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

namespace fd_facts {
namespace {

using js::number;
using Napi::CallbackInfo;
using Napi::Value;

int get_int(int fd, int level, int name, int* value) {
  socklen_t length = sizeof *value;
  return sys::getsockopt(fd, level, name, value, &length);
}

int get_int(int fd, int name, int* value) { return get_int(fd, SOL_SOCKET, name, value); }

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

// Returns whether this error of getpeername(2) means that the socket has no peer. EOPNOTSUPP and EAFNOSUPPORT come from
// address families without peers. After any other error, for example from a seccomp filter, it is unknown whether there
// is a peer.
bool has_no_peer(int error) {
  return error == -ENOTCONN || error == -EINVAL || error == -EOPNOTSUPP || error == -EAFNOSUPPORT;
}

// inspect(fd): returns the kind of file; for a socket, also its domain and type, and whether it listens or is
// connected.
Value inspect(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  sys::File file;
  int error = files::identify(fd, &file);
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
  int peer_error = sys::getpeername(fd, &peer.storage.any, &peer.length);
  if (peer_error != 0 && !has_no_peer(peer_error)) return number(info, peer_error);
  result.Set("domain", domain);
  result.Set("type", type);
  result.Set("listening", listening != 0);
  result.Set("connected", peer_error == 0);
  return result;
}

// Returns { address, port, family } as in net.AddressInfo, or only { address } for a unix socket.
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

// parseAddress(bytes): converts a struct sockaddr, as stored in a completion.
Value parse_address(const CallbackInfo& info) {
  js::Bytes bytes = js::to_bytes(info[0]);
  sockaddrs::Storage storage = {};
  size_t length = std::min(bytes.length, sizeof storage);
  if (length > 0) memcpy(&storage, bytes.data, length);  // the pointer may be null if the length is 0
  return to_address(info.Env(), storage, static_cast<socklen_t>(length));
}

// peerCredentials(fd): returns the credentials of the peer process (SO_PEERCRED, unix(7)). The kernel records them when
// that process calls connect(2), listen(2) or socketpair(2).
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

// backlog(fd): returns { queued, limit } of a listening socket.
Value backlog(const CallbackInfo& info) {
  int fd = js::to_int(info[0]);
  int domain = 0;
  int error = get_int(fd, SO_DOMAIN, &domain);
  uint32_t queued = 0;
  uint32_t limit = 0;
  if (error == 0 && domain == AF_UNIX) {
    error = unix_diag::accept_queue(fd, &queued, &limit);
  } else if (error == 0) {
    // For a listening TCP socket, Linux reports the length and the limit of the accept queue in these two fields. For a
    // connected socket, the same fields count segments.
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

// pidfdInode(): returns the inode of a pidfd of this process. The inode has 64 bits, so it is returned as a string.
Value pidfd_inode(const CallbackInfo& info) {
  int fd = sys::pidfd_open_self();
  if (fd < 0) return number(info, fd);
  sys::File file;
  int error = files::identify(fd, &file);
  sys::close(fd);
  if (error != 0) return number(info, error);
  return Napi::String::New(info.Env(), std::to_string(file.inode));
}

// getOption(fd, level, name): returns the value of a socket option whose values are non-negative integers.
Value get_option(const CallbackInfo& info) {
  int value = 0;
  int error = get_int(js::to_int(info[0]), js::to_int(info[1]), js::to_int(info[2]), &value);
  return number(info, error == 0 ? value : error);
}

// poll(fd): returns the current events of the fd, as reported by poll(2).
Value poll(const CallbackInfo& info) {
  return number(info, sys::poll(js::to_int(info[0]), POLLIN | POLLPRI | POLLRDHUP));
}

// atMark(fd), unread(fd)
template <int (*query)(int)>
Value result_of(const CallbackInfo& info) {
  return number(info, query(js::to_int(info[0])));
}

struct Constant {
  const char* name;
  int value;
};

// The constants whose values can differ between architectures.
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
    {"SO_RCVBUF", SO_RCVBUF},
    {"SO_PEEK_OFF", SO_PEEK_OFF},
    {"SO_BUF_LOCK", SO_BUF_LOCK},
    {"IPPROTO_IP", IPPROTO_IP},
    {"IP_TRANSPARENT", IP_TRANSPARENT},
    {"IP_FREEBIND", IP_FREEBIND},
    {"IPPROTO_IPV6", IPPROTO_IPV6},
    {"IPV6_V6ONLY", IPV6_V6ONLY},
    {"IPV6_TRANSPARENT", IPV6_TRANSPARENT},
    {"IPV6_FREEBIND", IPV6_FREEBIND},
    {"IPPROTO_TCP", IPPROTO_TCP},
    {"IPPROTO_MPTCP", IPPROTO_MPTCP},
    {"TCP_NODELAY", TCP_NODELAY},
    {"TCP_KEEPIDLE", TCP_KEEPIDLE},
    {"TCP_DEFER_ACCEPT", TCP_DEFER_ACCEPT},
    {"TCP_FASTOPEN", TCP_FASTOPEN},
    {"POLLPRI", POLLPRI},
    {"POLLRDHUP", POLLRDHUP},
    {"POLLHUP", POLLHUP},
};

}  // namespace

void define(Napi::Object exports) {
  js::define(exports, "inspect", inspect);
  js::define(exports, "getOption", get_option);
  js::define(exports, "poll", poll);
  js::define(exports, "atMark", result_of<sys::at_mark>);
  js::define(exports, "unread", result_of<sys::unread>);
  js::define(exports, "localAddress", address_of<sys::getsockname>);
  js::define(exports, "peerAddress", address_of<sys::getpeername>);
  js::define(exports, "parseAddress", parse_address);
  js::define(exports, "peerCredentials", peer_credentials);
  js::define(exports, "backlog", backlog);
  js::define(exports, "pidfdInode", pidfd_inode);
  auto constants = Napi::Object::New(exports.Env());
  for (const Constant& constant : kConstants) constants.Set(constant.name, constant.value);
  exports.Set("constants", constants);
}

}  // namespace fd_facts
