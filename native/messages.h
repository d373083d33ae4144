// Messages that pass fds between processes over unix sockets (unix(7), cmsg(3)). Does not depend on JavaScript.
#pragma once

#include <sys/socket.h>

#include <cstddef>

#include "sockaddr.h"

namespace messages {

// SCM_MAX_FD: the maximum number of fds that the kernel accepts in one message.
constexpr size_t kMaxFds = 253;

// Calls sendmsg(2) with SCM_RIGHTS. Borrows the fds; the receiver gets duplicates. `to` is null for a connected socket.
// Returns the number of bytes sent, or a negative errno. On a stream, this may be fewer than `length` bytes; the fds
// are sent with the first of them.
ssize_t send(int fd, const void* data, size_t length, const int* fds, size_t count, const sockaddrs::Sockaddr* to);

// The size of the buffer for control messages. Some control messages precede the fds if the owner of the socket has
// enabled them (SO_PASSCRED, SO_PASSPIDFD, SO_PASSSEC, SO_TIMESTAMP). Without room for those, fds would be lost.
constexpr size_t kControlRoom = CMSG_SPACE(sizeof(int) * kMaxFds) + 512;

struct Fds {
  int fds[kControlRoom / sizeof(int)];
  size_t count = 0;
  bool truncated = false;  // part of the message is missing: a buffer was too small, or this process is at its fd limit
};

// Calls recvmsg(2), first with MSG_PEEK. Without the peek, recvmsg(2) itself would close an fd that exceeds the fd
// limit of this process, and that close can block for as long as the sender likes. A message that is truncated because
// of the fd limit stays in the socket.
//
// The fds are close-on-exec. The caller owns them, also after an error. Returns the number of bytes received, or a
// negative errno.
ssize_t receive(int fd, void* data, size_t room, Fds* fds);

}  // namespace messages
