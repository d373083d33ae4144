// Closes fds on dedicated threads. Another process can make close(2) block for as long as it likes: with SO_LINGER
// (socket(7)) on a socket that it has passed to this process, with a FUSE file system whose daemon does not respond,
// and with every fd in the unread messages of a unix socket. An event loop must not wait for that.
//
// libuv's thread pool is no alternative: Node joins its threads in process.exit(), and fs, dns and crypto need its few
// threads.
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

  // Like close(), but waits at most kMaxWaitMs until the fd is closed. Returns false if it is not closed by then.
  bool close_and_wait(int fd, How how) noexcept;

  // Returns false for kNoWaitMs after a close_and_wait() that timed out. A caller with an alternative uses the
  // alternative meanwhile, so that untrusted processes cannot delay it again and again.
  bool may_wait() const noexcept;

  // Waits at most kMaxWaitMs for the pending closes. The threads then continue with the remaining ones, independently
  // of this object. If the process exits first, the kernel closes the fds.
  void end() noexcept;

  // Disables SO_LINGER on a socket, unless its timeout is 0. With SO_LINGER, close(2) on Linux blocks for at most that
  // timeout. Linux sends the remaining data in either case, so nothing changes for the peer. A timeout of 0 makes
  // close(2) reset the connection without blocking.
  static void clear_linger(int fd) noexcept;

  // The maximum number of threads, and so of close(2) calls that an untrusted process can block at the same time.
  static constexpr size_t kMaxThreads = 4;
  static constexpr unsigned kMaxWaitMs = 100;
  static constexpr unsigned kNoWaitMs = 60000;

 private:
  struct State;

  State* state_ = nullptr;
  uint64_t may_wait_from_ = 0;  // a time of uv_hrtime()
};
