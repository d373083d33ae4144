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
  // Bytes or fds may be missing: a buffer was too small, this process is at its fd limit, or another process also reads
  // from the socket.
  bool truncated = false;
};

// Calls recvmsg(2) twice, first with MSG_PEEK. A recvmsg(2) without MSG_PEEK closes each fd that exceeds the fd limit
// of this process. The sender can make that close block without limit. After MSG_PEEK, a message that is truncated
// because of the fd limit stays in the socket.
//
// The fds are close-on-exec. The caller owns them even if this function returns an error. Returns the number of bytes
// received, or a negative errno.
ssize_t receive(int fd, void* data, size_t room, Fds* fds);

}  // namespace messages
