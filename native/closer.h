// Closes fds on threads of its own. close(2) can take as long as another process likes: SO_LINGER (socket(7)) on a
// socket that the process has passed to us, a FUSE file system whose daemon is dead, and every fd in a unix socket's
// unread messages. An event loop must not wait for that.
//
// Not in libuv's thread pool: Node joins that pool in process.exit(), and fs, dns and crypto need its few threads.
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

  // Takes `fd`, and returns at once. Where no thread can be had, or no memory, it closes the fd here.
  void close(int fd, How how = How::kClose) noexcept;

  // As close(), then waits at most kPatienceMs. False: the fd is not closed yet.
  bool close_soon(int fd, How how) noexcept;

  // Whether close_soon() need not be expected to wait in vain: it has not for kMistrustMs. A caller that has another
  // way takes that while this is false, so that strangers cannot hold it up again and again.
  bool is_quick() const noexcept;

  // Waits at most kPatienceMs for the fds that it was given. The threads go on with those that take longer, without
  // this object; when the process ends first, the kernel closes them.
  void end() noexcept;

  // Takes SO_LINGER off a socket. Linux waits at most its time in close(2) and sends the rest of the data all the same,
  // so nothing changes for the peer of the connection. A time of 0 stays: it makes close(2) reset the connection, and
  // does not wait.
  static void clear_linger(int fd) noexcept;

  // What a stranger can hold up at once.
  static constexpr size_t kMostThreads = 4;
  static constexpr unsigned kPatienceMs = 100;
  static constexpr unsigned kMistrustMs = 60000;

 private:
  struct State;

  State* state_ = nullptr;
  uint64_t quick_from_ = 0;  // of uv_hrtime()
};
