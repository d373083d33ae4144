// Closes fds on dedicated threads. An event loop must not wait for close(2), because another process can make it block
// without limit. This happens in three cases:
// - The process has passed a socket with SO_LINGER (socket(7)) to this process.
// - The fd refers to a file in a FUSE file system whose daemon does not respond.
// - The unread messages of a unix socket contain such an fd.
//
// libuv's thread pool is not suitable. Node joins its threads in process.exit(), and fs, dns and crypto need the few
// threads of the pool.
#pragma once

#include <cstddef>
#include <cstdint>

class Closer {
 public:
  enum class How { kClose, kReset };

  Closer() = default;
  Closer(const Closer&) = delete;
  Closer& operator=(const Closer&) = delete;
  ~Closer() { end(); }

  // Takes ownership of `fd` and returns at once. If no thread or memory is available, closes the fd on the calling
  // thread.
  void close(int fd, How how = How::kClose) noexcept;

  // Like close(), but waits until the fd is closed, for at most kMaxWaitMs. Returns false if the fd is still open after
  // that.
  bool close_and_wait(int fd, How how) noexcept;

  // Returns false for kNoWaitMs after close_and_wait() has timed out. A caller that need not wait then calls close(),
  // so that untrusted processes cannot delay it repeatedly.
  bool may_wait() const noexcept;

  // Waits at most kMaxWaitMs for the pending closes. After that, the threads finish the pending closes without this
  // object. If the process exits first, the kernel closes the fds.
  void end() noexcept;

  // Disables SO_LINGER on a socket if its timeout is greater than 0. With such a timeout, close(2) on Linux can block
  // until the timeout expires. Linux sends the remaining data with or without SO_LINGER, so nothing changes for the
  // peer. A timeout of 0 is left as it is: close(2) then resets the connection without blocking.
  static void clear_linger(int fd) noexcept;

  // The maximum number of threads. It limits how many close(2) calls untrusted processes can block at the same time.
  static constexpr size_t kMaxThreads = 4;
  static constexpr unsigned kMaxWaitMs = 100;
  static constexpr unsigned kNoWaitMs = 60000;

 private:
  struct State;

  State* state_ = nullptr;
  uint64_t may_wait_from_ = 0;  // the time from which may_wait() returns true, in ns of uv_hrtime()
};
