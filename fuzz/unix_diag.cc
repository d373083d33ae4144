// Fuzzes the parser for answers of sock_diag(7), valid or not. Nothing may be read beyond the answer, and the netlink
// socket must be closed.
#include "../native/unix_diag.h"

#include <errno.h>
#include <fuzzer/FuzzedDataProvider.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sanitizer/asan_interface.h>
#include <string.h>

#include <algorithm>
#include <cassert>
#include <vector>

#include "../native/files.h"
#include "../native/sys.h"

namespace {

constexpr int kNetlink = 7;
FuzzedDataProvider* input;
int closed;

// Returns an answer with attributes whose lengths may be wrong.
std::vector<char> plausible_answer() {
  std::vector<char> answer(NLMSG_LENGTH(sizeof(unix_diag_msg)));
  while (input->remaining_bytes() > 0 && answer.size() < 512) {
    rtattr attribute = {};
    auto size = input->ConsumeIntegralInRange<size_t>(0, 16);
    attribute.rta_len =
        static_cast<uint16_t>(input->ConsumeBool() ? RTA_LENGTH(size) : input->ConsumeIntegral<uint16_t>());
    attribute.rta_type = input->ConsumeIntegralInRange<uint16_t>(0, UNIX_DIAG_MAX);
    auto* start = reinterpret_cast<const char*>(&attribute);
    answer.insert(answer.end(), start, start + sizeof attribute);
    answer.resize(answer.size() + RTA_ALIGN(size), 'x');
  }
  if (input->ConsumeBool()) answer.resize(input->ConsumeIntegralInRange(sizeof(nlmsghdr), answer.size()));
  nlmsghdr header = {};
  header.nlmsg_type = input->ConsumeBool() ? SOCK_DIAG_BY_FAMILY : NLMSG_ERROR;
  header.nlmsg_len = static_cast<uint32_t>(answer.size());
  memcpy(answer.data(), &header, sizeof header);
  return answer;
}

}  // namespace

namespace files {

int identify(int, sys::File* file) {
  *file = {};
  return 0;
}

}  // namespace files

namespace sys {

int socket(int, int, int) { return input->ConsumeBool() ? kNetlink : -EMFILE; }

ssize_t send(int, const void*, size_t length) { return input->ConsumeBool() ? static_cast<ssize_t>(length) : -ENOBUFS; }

ssize_t recv(int, void* data, size_t room, int) {
  bool plausible = input->ConsumeBool();
  std::vector<char> answer = plausible ? plausible_answer() : input->ConsumeRemainingBytes<char>();
  if (answer.empty()) return -EAGAIN;
  size_t size = std::min(room, answer.size());
  memcpy(data, answer.data(), size);
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(data) + size, room - size);
  return static_cast<ssize_t>(size);
}

int close(int fd) {
  assert(fd == kNetlink);
  closed++;
  return 0;
}

}  // namespace sys

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider provider(data, size);
  input = &provider;
  closed = 0;
  uint32_t queued = 0;
  uint32_t limit = 0;
  int error = unix_diag::accept_queue(0, &queued, &limit);
  assert(closed == (error == -EMFILE && closed == 0 ? 0 : 1));
  return 0;
}
