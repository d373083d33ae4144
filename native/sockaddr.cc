#include "sockaddr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <uv.h>

#include <algorithm>
#include <cstddef>

namespace sockaddrs {

static_assert(sizeof(Storage) >= sizeof(sockaddr_in6), "an IPv6 address must fit");

int from_ip(const std::string& host, uint16_t port, Sockaddr* result) {
  result->storage = {};
  if (host.find('\0') != std::string::npos) return -EINVAL;  // libuv would ignore everything after the '\0'
  if (uv_ip4_addr(host.c_str(), port, reinterpret_cast<sockaddr_in*>(&result->storage)) == 0) {
    result->length = sizeof(sockaddr_in);
    return 0;
  }
  if (uv_ip6_addr(host.c_str(), port, reinterpret_cast<sockaddr_in6*>(&result->storage)) == 0) {
    result->length = sizeof(sockaddr_in6);
    return 0;
  }
  return -EINVAL;
}

int from_path(const std::string& path, Sockaddr* result) {
  bool abstract = !path.empty() && path[0] == '\0';
  if (path.empty() || (!abstract && path.find('\0') != std::string::npos)) return -EINVAL;
  // A path must end with '\0' to be portable. An abstract name is not terminated and may use every byte.
  if (path.size() > sizeof(sockaddr_un::sun_path) - (abstract ? 0 : 1)) return -ENAMETOOLONG;
  result->storage = {};
  result->storage.un.sun_family = AF_UNIX;
  memcpy(result->storage.un.sun_path, path.data(), path.size());
  result->length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + (abstract ? 0 : 1));
  return 0;
}

std::string to_text(const Storage& storage, socklen_t length) {
  char text[INET6_ADDRSTRLEN];
  switch (length < sizeof(sa_family_t) ? AF_UNSPEC : storage.family) {
    case AF_INET:
      inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(&storage)->sin_addr, text, sizeof text);
      return text;
    case AF_INET6: {
      auto* in6 = reinterpret_cast<const sockaddr_in6*>(&storage);
      inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof text);
      char device[IF_NAMESIZE];
      if (IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr) && if_indextoname(in6->sin6_scope_id, device) != nullptr) {
        return std::string(text) + '%' + device;
      }
      return text;
    }
    case AF_UNIX: {
      constexpr socklen_t start = offsetof(sockaddr_un, sun_path);
      if (length <= start) return "";
      // For a path of 108 bytes, the length that the kernel reports includes a terminating '\0' that does not fit into
      // sun_path.
      size_t size = std::min<size_t>(length, sizeof storage.un) - start;
      const char* path = storage.un.sun_path;
      return path[0] == '\0' ? std::string(path, size) : std::string(path, strnlen(path, size));
    }
    default:
      return "";
  }
}

uint16_t port(const Storage& storage) {
  // sin_port and sin6_port have the same offset.
  bool ip = storage.family == AF_INET || storage.family == AF_INET6;
  return ip ? ntohs(reinterpret_cast<const sockaddr_in*>(&storage)->sin_port) : 0;
}

}  // namespace sockaddrs
