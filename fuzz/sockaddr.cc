// Round trips: an address that the kernel may return is converted to text, and text to an address, without loss.
#include "../native/sockaddr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fuzzer/FuzzedDataProvider.h>
#include <netinet/in.h>
#include <string.h>

#include <cassert>
#include <memory>

using sockaddrs::Sockaddr;
using sockaddrs::Storage;

namespace {

void kernel_to_text(FuzzedDataProvider& input) {
  // Allocated on the heap, so that AddressSanitizer detects a read beyond the end. accept(2) may report a length that
  // exceeds the buffer.
  auto storage = std::make_unique<Storage>();
  *storage = {};
  auto length = input.ConsumeIntegralInRange<socklen_t>(0, 2 * sizeof(Storage));
  if (input.ConsumeBool()) storage->family = input.PickValueInArray<sa_family_t>({AF_INET, AF_INET6, AF_UNIX});
  size_t family = storage->family == 0 ? 0 : sizeof(sa_family_t);
  input.ConsumeData(reinterpret_cast<char*>(storage.get()) + family, sizeof(Storage) - family);

  auto* in6 = reinterpret_cast<sockaddr_in6*>(storage.get());
  if (storage->family == AF_INET6 && input.ConsumeBool()) {
    inet_pton(AF_INET6, "fe80::1", &in6->sin6_addr);
    in6->sin6_scope_id = input.ConsumeIntegralInRange<uint32_t>(0, 3);  // 1 is the index of the loopback interface
  }

  std::string text = sockaddrs::to_text(*storage, length);
  uint16_t port = sockaddrs::port(*storage);
  Sockaddr back;
  if (length < sizeof(sa_family_t)) {
    assert(text.empty());
  } else if (storage->family == AF_INET) {
    int error = sockaddrs::from_ip(text, port, &back);
    auto* in = reinterpret_cast<sockaddr_in*>(storage.get());
    auto* in_back = reinterpret_cast<sockaddr_in*>(&back.storage);
    assert(error == 0 && back.length == sizeof *in);
    assert(in->sin_addr.s_addr == in_back->sin_addr.s_addr && in->sin_port == in_back->sin_port);
  } else if (storage->family == AF_INET6) {
    int error = sockaddrs::from_ip(text, port, &back);
    auto* in6_back = reinterpret_cast<sockaddr_in6*>(&back.storage);
    assert(error == 0 && back.length == sizeof *in6);
    assert(memcmp(&in6->sin6_addr, &in6_back->sin6_addr, sizeof in6->sin6_addr) == 0);
    assert(in6->sin6_port == in6_back->sin6_port);
    // A scope is the index of an interface. to_text() omits an index that belongs to no interface.
    assert(text.find('%') == std::string::npos || in6->sin6_scope_id == in6_back->sin6_scope_id);
  } else if (storage->family == AF_UNIX) {
    assert(text.size() <= sizeof storage->un.sun_path && port == 0);
    int error = sockaddrs::from_path(text, &back);
    // The kernel may return a path that fills sun_path without a '\0'. from_path() rejects such a path.
    assert(error == (text.empty() ? -EINVAL : text.size() == 108 && text[0] != '\0' ? -ENAMETOOLONG : 0));
    assert(error != 0 || sockaddrs::to_text(back.storage, back.length) == text);
  } else {
    assert(text.empty() && port == 0);
  }
}

void ip_to_kernel(FuzzedDataProvider& input) {
  auto port = input.ConsumeIntegral<uint16_t>();
  std::string host = input.PickValueInArray({"", "127.0.0.1", "::1", "fe80::1%lo"});
  host += input.ConsumeRemainingBytesAsString();
  Sockaddr once;
  int error = sockaddrs::from_ip(host, port, &once);
  assert(error == 0 || error == -EINVAL);
  if (error != 0) return;
  assert(host.find('\0') == std::string::npos);
  assert(sockaddrs::port(once.storage) == port);
  std::string text = sockaddrs::to_text(once.storage, once.length);
  Sockaddr twice;
  error = sockaddrs::from_ip(text, port, &twice);
  assert(error == 0 && once.length == twice.length);
  assert(sockaddrs::to_text(twice.storage, twice.length) == text);
  // to_text() prints the scope only of addresses that need one.
  bool scoped = once.storage.family == AF_INET6 && text.find('%') == std::string::npos;
  if (scoped) reinterpret_cast<sockaddr_in6*>(&once.storage)->sin6_scope_id = 0;
  assert(memcmp(&once.storage, &twice.storage, once.length) == 0);
}

void path_to_kernel(FuzzedDataProvider& input) {
  std::string path = input.ConsumeRemainingBytesAsString();
  Sockaddr address;
  int error = sockaddrs::from_path(path, &address);
  bool abstract = path[0] == '\0';
  if (path.empty() || (!abstract && path.find('\0') != std::string::npos)) {
    assert(error == -EINVAL);
  } else if (path.size() > (abstract ? 108 : 107)) {
    assert(error == -ENAMETOOLONG);
  } else {
    assert(error == 0 && address.length <= sizeof(sockaddr_un) && address.storage.family == AF_UNIX);
    assert(sockaddrs::to_text(address.storage, address.length) == path);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  input.PickValueInArray({kernel_to_text, ip_to_kernel, path_to_kernel})(input);
  return 0;
}
