// Converts socket addresses between text and the form that the kernel uses.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <cstdint>
#include <string>

namespace sockaddrs {

// A buffer for any address of a stream or seqpacket socket on Linux. sockaddr_un is the longest of them.
union Storage {
  sockaddr any;
  sockaddr_un un;
  sa_family_t family;
};

struct Sockaddr {
  Storage storage;
  socklen_t length = sizeof(Storage);
};

// Parses an IPv4 or IPv6 address. A link-local address may have a scope ("fe80::1%eth0"). Returns -EINVAL for any other
// text.
int from_ip(const std::string& host, uint16_t port, Sockaddr* result);

// Converts a path, or a name in the abstract namespace, which begins with '\0' (unix(7)). Returns -ENAMETOOLONG for a
// path of more than 107 bytes or a name of more than 108. Returns -EINVAL if it is empty or a path contains '\0'.
int from_path(const std::string& path, Sockaddr* result);

// Returns "192.0.2.1", "2001:db8::1" or "fe80::1%eth0"; the path of a unix socket; an abstract name with its leading
// '\0'; or an empty string if the socket has no name.
std::string to_text(const Storage& storage, socklen_t length);

uint16_t port(const Storage& storage);

}  // namespace sockaddrs
