// The accept queue of a listening unix socket. No socket option tells it; sock_diag(7) does, as it does for ss(8).
#pragma once

#include <cstdint>

namespace unix_diag {

// 0 or a negative errno: -ENOENT where the kernel was built without unix_diag.
int accept_queue(int fd, uint32_t* queued, uint32_t* limit);

}  // namespace unix_diag
