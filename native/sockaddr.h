// Socket addresses: from text to the kernel's form and back.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <cstdint>
#include <string>

namespace sockaddrs {

// Room for every address that a stream or seqpacket socket can have on Linux, sockaddr_un being the longest.
union Storage {
  sockaddr any;
  sockaddr_un un;
  sa_family_t family;
};

struct Sockaddr {
  Storage storage;
  socklen_t length = sizeof(Storage);
};

// `host` is an IPv4 or IPv6 address in text, with a scope for a link-local one ("fe80::1%eth0"). -EINVAL for
// anything else.
int from_ip(const std::string& host, uint16_t port, Sockaddr* result);

// A path, or a name in the abstract namespace when it begins with '\0' (unix(7)). -ENAMETOOLONG beyond 107 bytes,
// -EINVAL when it is empty or a path holds a '\0' inside.
int from_path(const std::string& path, Sockaddr* result);

// "192.0.2.1", "2001:db8::1", "fe80::1%eth0"; the path of a unix socket, '\0' first for an abstract one; empty when
// the socket has no name.
std::string to_text(const Storage& storage, socklen_t length);

uint16_t port(const Storage& storage);

}  // namespace sockaddrs
