// Reports when an fd without a libuv handle becomes readable or writable. Does not read or write the fd.
//
// The fds are in a separate, edge-triggered epoll instance, and libuv polls the fd of that instance. New data then
// causes one wake-up, even if earlier bytes stay unread. libuv's own polls are level-triggered and would fire in every
// turn of the loop while bytes stay unread. In addition, libuv never polls the watched fds themselves, so each of them
// can later be transferred to any other owner.
#pragma once

#include <uv.h>

#include <cstddef>

#include "fd_bit_set.h"

class Readiness {
 public:
  struct Event {
    int fd;
    // End of stream, an error or urgent data. The event may also belong to an earlier file with the same fd number.
    // Call poll(2) on the fd to find out.
    bool exceptional;
    bool writable;  // only if watch() requested it
  };

  class Host {
   public:
    // Called from the event loop only.
    virtual void ready(const Event* events, size_t count) = 0;
    virtual void readiness_closed() = 0;

   protected:
    ~Host() = default;
  };

  explicit Readiness(Host* host) : host_(host) {}

  // Reports `fd` once for its present state, and then whenever more data arrives. If `writable` is set, also reports
  // when there is room to write again. Borrows the fd. Returns 0 or a negative errno. A watched fd keeps the loop
  // alive.
  int watch(uv_loop_t* loop, int fd, bool writable);

  // Must be called before the fd is closed or transferred. close(2) removes the fd from the epoll instance, but this
  // object would still count it as watched. Returns -ENOENT if the fd is not watched.
  int unwatch(int fd);

  // Stops watching all fds. Returns true if readiness_closed() will be called.
  bool close();

 private:
  // The maximum number of fds in one call into JavaScript.
  static constexpr int kMaxBatch = 64;
  // The maximum number of calls into JavaScript in one turn of the loop. Together they report at most 1024 fds, the
  // maximum number of events that libuv takes from one epoll_wait(2). The remaining fds wait for the next turn, so that
  // timers and other I/O are not delayed.
  static constexpr int kMaxBatches = 16;

  int open(uv_loop_t* loop);
  int start();
  void on_ready();

  Host* host_;
  uv_poll_t poll_;
  int epoll_ = -1;
  FdBitSet watched_;
  size_t count_ = 0;
  bool closing_ = false;
};
