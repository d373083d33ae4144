// Messages that carry fds from one process to another over unix sockets (unix(7), cmsg(3)). No JavaScript.
#pragma once

#include <sys/socket.h>

#include <cstddef>

#include "sockaddr.h"

namespace messages {

// SCM_MAX_FD: what the kernel takes in one message.
constexpr size_t kMaxFds = 253;

// sendmsg(2) with SCM_RIGHTS. The receiver gets copies; what is here stays open. `to` is null for a connected socket.
// The bytes sent, maybe fewer than `length` on a stream, and then the fds are with the first; or a negative errno.
ssize_t send(int fd, const void* data, size_t length, const int* fds, size_t count, const sockaddrs::Sockaddr* to);

// The room for control messages, some of which come before the fds if the socket's owner wants them (SO_PASSCRED,
// SO_PASSPIDFD, SO_PASSSEC, SO_TIMESTAMP). Without room for them, fds would be lost.
constexpr size_t kControlRoom = CMSG_SPACE(sizeof(int) * kMaxFds) + 512;

struct Fds {
  int fds[kControlRoom / sizeof(int)];
  size_t count = 0;
  bool truncated = false;  // the message is not whole: the room was too small, or this process has too many fds open
};

// recvmsg(2), with MSG_PEEK first: an fd for which this process has no room would be closed within recvmsg(2), which
// can take as long as its sender likes. A message that is truncated for want of fds stays in the socket.
//
// The fds are close-on-exec, and the caller's, also after an error. The bytes received, or a negative errno.
ssize_t receive(int fd, void* data, size_t room, Fds* fds);

}  // namespace messages
