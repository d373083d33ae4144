// Reports when an fd without a libuv handle becomes readable or writable. Neither reads nor writes.
//
// The fds are in a separate, edge-triggered epoll instance, and libuv polls the fd of that instance. A client that
// sends bytes one by one then causes one wake-up for each, however long earlier bytes stay unread. libuv's own polls
// are level-triggered and would fire in every turn of the loop. Besides, an fd that libuv has never polled can be
// transferred anywhere.
#pragma once

#include <uv.h>

#include <cstddef>

#include "fd_bit_set.h"

class Readiness {
 public:
  struct Event {
    int fd;
    // End of stream, an error or urgent data; or the fd number now refers to another file. Only poll(2) of the fd can
    // tell.
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

  // Must be called before the fd is closed or transferred: closing removes it from the epoll instance, but not from
  // this object. Returns -ENOENT if the fd is not watched.
  int unwatch(int fd);

  // Stops watching all fds. Returns true if readiness_closed() will be called.
  bool close();

 private:
  // The maximum number of fds in one call into JavaScript.
  static constexpr int kMaxBatch = 64;
  // The maximum number of calls into JavaScript in one turn of the loop. They report 1024 fds, as many as libuv takes
  // from one epoll_wait(2). The remaining fds wait for the next turn, so that timers and other I/O are not delayed.
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
