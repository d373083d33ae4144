#include "readiness.h"

#include <errno.h>
#include <sys/epoll.h>

#include "sys.h"

static constexpr uint32_t kExceptional = EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR;

int Readiness::open(uv_loop_t* loop) {
  int epoll = sys::epoll_create();
  if (epoll < 0) return epoll;
  int error = uv_poll_init(loop, &poll_, epoll);
  if (error != 0) {
    sys::close(epoll);
    return error;
  }
  poll_.data = this;
  epoll_ = epoll;
  uv_unref(reinterpret_cast<uv_handle_t*>(&poll_));
  return 0;
}

int Readiness::start() {
  if (uv_is_active(reinterpret_cast<uv_handle_t*>(&poll_))) return 0;
  return uv_poll_start(&poll_, UV_READABLE,
                       [](uv_poll_t* handle, int, int) { static_cast<Readiness*>(handle->data)->on_ready(); });
}

int Readiness::watch(uv_loop_t* loop, int fd, bool writable) {
  if (closing_) return -ECANCELED;
  int error = epoll_ < 0 ? open(loop) : 0;
  if (error == 0) error = start();
  uint32_t events = EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET;
  if (writable) events |= EPOLLOUT;
  if (error == 0) error = sys::epoll_add(epoll_, fd, events);
  if (error != 0) return error;
  if (!watched_.add(fd)) {
    sys::epoll_remove(epoll_, fd);
    return -ENOMEM;
  }
  if (++count_ == 1) uv_ref(reinterpret_cast<uv_handle_t*>(&poll_));
  return 0;
}

int Readiness::unwatch(int fd) {
  if (closing_ || !watched_.remove(fd)) return -ENOENT;
  if (--count_ == 0) uv_unref(reinterpret_cast<uv_handle_t*>(&poll_));
  return sys::epoll_remove(epoll_, fd);
}

void Readiness::on_ready() {
  // The host may close this object in ready().
  for (int batch = 0; batch < kMaxBatches && !closing_; batch++) {
    epoll_event events[kMaxBatch];
    Event found[kMaxBatch];
    int count = sys::epoll_wait(epoll_, events, kMaxBatch);
    if (count <= 0) return;
    for (int i = 0; i < count; i++) {
      uint32_t what = events[i].events;
      found[i] = {events[i].data.fd, (what & kExceptional) != 0, (what & EPOLLOUT) != 0};
    }
    host_->ready(found, static_cast<size_t>(count));
    if (count < kMaxBatch) return;
  }
}

bool Readiness::close() {
  closing_ = true;
  if (epoll_ < 0) return false;
  uv_poll_stop(&poll_);
  uv_close(reinterpret_cast<uv_handle_t*>(&poll_), [](uv_handle_t* handle) {
    auto* readiness = static_cast<Readiness*>(handle->data);
    readiness->epoll_ = -1;
    readiness->host_->readiness_closed();
  });
  sys::close(epoll_);
  return true;
}
