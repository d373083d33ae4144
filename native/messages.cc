#include "messages.h"

#include <string.h>

#include <algorithm>

#include "sys.h"

namespace messages {

namespace {
// Since Linux 6.5; missing from some headers.
constexpr int kScmPidfd = 4;

// A union, so that the buffer has the alignment of cmsghdr.
union Control {
  cmsghdr header;
  char room[kControlRoom];
};
}  // namespace

ssize_t send(int fd, const void* data, size_t length, const int* fds, size_t count, const sockaddrs::Sockaddr* to) {
  iovec bytes = {const_cast<void*>(data), length};
  msghdr message = {};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  if (to != nullptr) {
    message.msg_name = const_cast<sockaddr*>(&to->storage.any);
    message.msg_namelen = to->length;
  }
  Control control;
  if (count > 0) {
    message.msg_control = control.room;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    *header = {};
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(header), fds, sizeof(int) * count);
  }
  return sys::sendmsg(fd, &message);
}

ssize_t receive(int fd, void* data, size_t room, Fds* fds) {
  iovec bytes = {data, room};
  Control control;
  msghdr message = {};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = control.room;
  message.msg_controllen = sizeof control.room;
  ssize_t length = sys::recvmsg(fd, &message, MSG_PEEK);
  if (length < 0) return length;
  fds->truncated = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
  // Does not use CMSG_NXTHDR, which trusts every cmsg_len. The result of recvmsg(2) can also come from gVisor or a
  // seccomp notifier. With a wrong length, CMSG_NXTHDR would read the stack beyond `control`.
  const size_t size = std::min<size_t>(message.msg_controllen, sizeof control.room);
  cmsghdr header;
  for (size_t at = 0; at < size && size - at >= sizeof header; at += CMSG_ALIGN(header.cmsg_len)) {
    memcpy(&header, control.room + at, sizeof header);
    if (header.cmsg_len < CMSG_LEN(0) || header.cmsg_len > size - at) break;
    if (header.cmsg_level != SOL_SOCKET) continue;
    if (header.cmsg_type != SCM_RIGHTS && header.cmsg_type != kScmPidfd) continue;
    size_t count = (header.cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int received;
      memcpy(&received, control.room + at + CMSG_LEN(0) + sizeof(int) * i, sizeof received);
      if (header.cmsg_type == SCM_RIGHTS) {
        fds->fds[fds->count++] = received;
      } else if (received >= 0) {
        sys::close(received);  // a pidfd comes from the kernel, so close(2) does not block
      }
    }
  }
  if (fds->count > kMaxFds) fds->truncated = true;
  if ((message.msg_flags & MSG_CTRUNC) != 0) return length;
  // Consumes the message. Without a buffer for control messages, the kernel drops its references to the fds in the
  // message. MSG_PEEK has already opened the same files in this process. So the kernel closes no file here, and nothing
  // can block.
  iovec same = {data, static_cast<size_t>(length)};
  message = {};
  message.msg_iov = &same;
  message.msg_iovlen = 1;
  ssize_t taken = sys::recvmsg(fd, &message);
  if (taken < 0) return taken;
  if (taken != length) fds->truncated = true;  // another process reads from this socket too
  return length;
}

}  // namespace messages
