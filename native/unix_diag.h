// What sock_diag(7) says of unix sockets, as ss(8) shows it: no socket option tells the length of an accept queue, or
// whether another process still has the socket.
#pragma once

#include <cstdint>

namespace unix_diag {

// 0 or a negative errno: -ENOENT where the kernel was built without unix_diag.
int accept_queue(int fd, uint32_t* queued, uint32_t* limit);

// 0 while any process has the unix socket whose inode that is, also in a message that has not been received. -ENOENT:
// no process has it, or the kernel was built without unix_diag. Other errnos: it is not known.
int exists(uint64_t inode);

}  // namespace unix_diag
