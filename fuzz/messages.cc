// Fuzzes messages::receive with control messages as the kernel writes them, with arbitrary bytes, and with the output
// of messages::send. Every received fd must be returned or closed exactly once, and nothing may be read beyond the
// received data.
#include "../native/messages.h"

#include <errno.h>
#include <fuzzer/FuzzedDataProvider.h>
#include <sanitizer/asan_interface.h>
#include <string.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <iterator>
#include <vector>

#include "../native/sys.h"

namespace {

// The simulated kernel, which the stubs of native/sys.h below use.
struct Kernel {
  FuzzedDataProvider* input;
  enum { kValid, kArbitrary, kEcho } answers;
  std::vector<char> sent;  // the control messages of the last sendmsg
  bool peeked;             // the peek succeeded
  std::vector<int> ends;   // for each fd that open() has returned: how often it was closed or passed on

  int open() {
    ends.push_back(0);
    return static_cast<int>(ends.size()) - 1;
  }

  void end(int fd) {
    if (answers != kArbitrary) ends.at(static_cast<size_t>(fd))++;
  }
};

Kernel kernel;

// The kernel's put_cmsg(): cuts off what does not fit, and sets MSG_CTRUNC.
void put(msghdr* message, size_t* used, int level, int type, const std::vector<char>& data) {
  size_t room = message->msg_controllen - *used;
  if (room < CMSG_LEN(0)) {
    message->msg_flags |= MSG_CTRUNC;
    return;
  }
  size_t length = CMSG_LEN(data.size());
  if (length > room) message->msg_flags |= MSG_CTRUNC;
  length = std::min(length, room);
  cmsghdr header = {};
  header.cmsg_len = length;
  header.cmsg_level = level;
  header.cmsg_type = type;
  char* at = static_cast<char*>(message->msg_control) + *used;
  memcpy(at, &header, sizeof header);
  std::copy_n(data.begin(), length - CMSG_LEN(0), at + CMSG_LEN(0));
  *used += std::min(CMSG_SPACE(data.size()), room);
}

std::vector<char> bytes_of(const std::vector<int>& fds) {
  auto* first = reinterpret_cast<const char*>(fds.data());
  return {first, first + sizeof(int) * fds.size()};
}

size_t write_valid(msghdr* message) {
  FuzzedDataProvider& input = *kernel.input;
  size_t used = 0;
  while (input.remaining_bytes() > 0) {
    switch (input.ConsumeIntegralInRange(0, 2)) {
      case 0: {  // scm_detach_fds(): installs only as many fds as fit into the buffer
        size_t room = message->msg_controllen - used;
        size_t most = room < CMSG_LEN(0) ? 0 : (room - CMSG_LEN(0)) / sizeof(int);
        auto count = input.ConsumeIntegralInRange<size_t>(1, messages::kMaxFds);
        if (count > most) message->msg_flags |= MSG_CTRUNC;
        std::vector<int> fds;
        while (fds.size() < std::min(count, most)) fds.push_back(kernel.open());
        if (!fds.empty()) put(message, &used, SOL_SOCKET, SCM_RIGHTS, bytes_of(fds));
        break;
      }
      case 1: {  // SCM_PIDFD: a pidfd, or a negative errno instead
        if (message->msg_controllen - used < CMSG_LEN(sizeof(int))) return used;
        put(message, &used, SOL_SOCKET, 4, bytes_of({input.ConsumeBool() ? kernel.open() : -ESRCH}));
        break;
      }
      default: {  // credentials, a timestamp, a security label
        int level = input.ConsumeBool() ? SOL_SOCKET : SOL_SOCKET + 1;
        int type = level == SOL_SOCKET ? SCM_CREDENTIALS : input.ConsumeIntegralInRange(0, 4);
        std::vector<char> data(input.ConsumeIntegralInRange<size_t>(0, 64), 'x');
        put(message, &used, level, type, data);
      }
    }
  }
  return used;
}

size_t write_arbitrary(msghdr* message) {
  auto length = kernel.input->ConsumeIntegralInRange<size_t>(0, 2 * message->msg_controllen);
  message->msg_flags = kernel.input->ConsumeIntegral<int>();
  kernel.input->ConsumeData(message->msg_control, message->msg_controllen);
  return length;
}

size_t write_sent(msghdr* message) {
  assert(kernel.sent.size() <= message->msg_controllen);
  std::copy(kernel.sent.begin(), kernel.sent.end(), static_cast<char*>(message->msg_control));
  return kernel.sent.size();
}

}  // namespace

namespace sys {

ssize_t recvmsg(int, msghdr* message, int flags) {
  FuzzedDataProvider& input = *kernel.input;
  // After the peek, the same read returns as many bytes, fewer bytes, or an error.
  if ((flags & MSG_PEEK) == 0) {
    auto length = static_cast<ssize_t>(message->msg_iov->iov_len);
    return input.ConsumeBool() ? length : input.ConsumeIntegralInRange<ssize_t>(-133, length);
  }
  size_t room = message->msg_controllen;
  message->msg_flags = 0;
  auto result = input.ConsumeIntegralInRange<ssize_t>(-133, static_cast<ssize_t>(message->msg_iov->iov_len));
  kernel.peeked = result >= 0;
  if (result < 0) return result;
  auto write = std::array{write_valid, write_arbitrary, write_sent}[kernel.answers];
  message->msg_controllen = write(message);
  auto* control = static_cast<char*>(message->msg_control);
  size_t used = std::min(room, message->msg_controllen);
  ASAN_POISON_MEMORY_REGION(control + used, room - used);
  return result;
}

ssize_t sendmsg(int, const msghdr* message) {
  auto* control = static_cast<const char*>(message->msg_control);
  kernel.sent.assign(control, control + message->msg_controllen);
  return static_cast<ssize_t>(message->msg_iov->iov_len);
}

int close(int fd) {
  kernel.end(fd);
  return 0;
}

}  // namespace sys

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider input(data, size);
  kernel = {&input, input.PickValueInArray({Kernel::kValid, Kernel::kArbitrary, Kernel::kEcho}), {}, false, {}};
  messages::Fds received;
  char bytes[16];
  if (kernel.answers == Kernel::kEcho) {
    std::vector<int> fds(input.ConsumeIntegralInRange<size_t>(0, messages::kMaxFds));
    for (int& fd : fds) fd = kernel.open();
    messages::send(0, bytes, sizeof bytes, fds.data(), fds.size(), nullptr);
  }
  ssize_t length = messages::receive(0, bytes, sizeof bytes, &received);
  assert(length <= static_cast<ssize_t>(sizeof bytes) && received.count <= std::size(received.fds));
  assert(received.count <= messages::kMaxFds || received.truncated || length < 0);
  if (!kernel.peeked) return 0;
  for (size_t i = 0; i < received.count; i++) kernel.end(received.fds[i]);
  assert(std::all_of(kernel.ends.begin(), kernel.ends.end(), [](int ends) { return ends == 1; }));
  return 0;
}
