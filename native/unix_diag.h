// Queries unix sockets with sock_diag(7), as ss(8) does. No socket option reports the length of the accept queue, or
// whether another process still has the socket.
#pragma once

#include <cstdint>

namespace unix_diag {

// Gets the length and the limit of the accept queue. Returns 0 or a negative errno: -ENOENT if the kernel was built
// without unix_diag.
int accept_queue(int fd, uint32_t* queued, uint32_t* limit);

// Returns 0 while any process has the unix socket with this inode, or while an unread message contains the socket.
// Returns -ENOENT if no process has the socket, or if the kernel was built without unix_diag. After any other errno,
// the answer is unknown.
int exists(uint64_t inode);

}  // namespace unix_diag
