// A stress test: listeners on the event loops of several threads share one listening socket. While clients connect,
// requests are made, are cancelled and time out at random, and listeners are closed, detached and opened again. Each
// accepted connection is answered at once, or after its client has sent a byte.
//
// Does not need Node, so that sanitizers and valgrind see every memory access: `npm run test:sanitize` runs it. Exits
// with 0 if every client has received exactly one answer and no fd is left open.
//
// Usage: listeners <clients> [seed]
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <iterator>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "../../native/fd_bit_set.h"
#include "../../native/listener.h"
#include "../../native/readiness.h"
#include "../../native/sys.h"

namespace {

constexpr int kThreads = 4;
constexpr int kRequests = 8;

void check(bool condition, const char* what) {
  if (condition) return;
  fprintf(stderr, "%s (errno %d)\n", what, errno);
  abort();
}

class Server final : public Listener::Host, public Readiness::Host {
 public:
  Server(int shared, unsigned seed) : shared_(shared), random_(seed) {
    check(uv_loop_init(&loop_) == 0, "uv_loop_init");
    stop_.data = this;
    check(uv_async_init(&loop_, &stop_, [](uv_async_t* stop) { static_cast<Server*>(stop->data)->end(); }) == 0,
          "uv_async_init");
    open();
  }

  void run() {
    uv_run(&loop_, UV_RUN_DEFAULT);
    check(uv_loop_close(&loop_) == 0, "a handle is still open");
    check(open_ == 0, "closed() was not called for each listener");
  }

  // Callable from any thread.
  void stop() { uv_async_send(&stop_); }

  uint64_t answered() const { return answered_; }

  Listener::Completion* completions() override { return ending_ ? nullptr : slots_; }
  void collect() override {}
  bool own(int fd, Origin) override { return owned_.add(fd); }
  bool close(int fd, bool reset) override {
    if (reset) {
      sys::reset(fd);
    } else {
      sys::close(fd);
    }
    return true;
  }
  void hold(Listener* listener, bool outstanding) override {
    check(listener->requests().empty() != outstanding || listener->fd() < 0,
          "hold() does not agree with the outstanding requests");
  }

  void deliver(Listener* listener, size_t count, Listener::Capacity) override {
    check(listener == listener_, "a closed listener has delivered completions");
    for (size_t i = 0; i < count; i++) {
      int fd = slots_[i].result;
      check(fd >= 0 || fd == -ETIMEDOUT, "a request was rejected");
      if (fd < 0) continue;
      check(sockaddrs::to_text(slots_[i].address, slots_[i].address_length) == "127.0.0.1",
            "wrong address of the peer");
      if (one_in(2)) {
        answer(fd);
      } else {
        check(readiness_.watch(&loop_, fd, one_in(2)) == 0, "watch");
      }
    }
    if (one_in(20)) {
      listener->close();
      open();
    } else if (one_in(20)) {
      sys::close(listener->detach());
      open();
    } else {
      ask();
    }
  }

  void closed(Listener*) override { open_--; }

  void ready(const Readiness::Event* events, size_t count) override {
    for (size_t i = 0; i < count; i++) {
      char word;
      int fd = events[i].fd;
      if (sys::recv(fd, &word, 1, MSG_DONTWAIT) != 1) continue;
      check(readiness_.unwatch(fd) == 0, "unwatch");
      answer(fd);
    }
  }

  void readiness_closed() override {}

 private:
  bool one_in(int n) { return random_() % static_cast<unsigned>(n) == 0; }

  void open() {
    int fd = sys::dup_cloexec(shared_);
    check(fd >= 0, "dup");
    check(Listener::create(&loop_, fd, {1 + random_() % 8, false}, this, &listener_) == 0, "create");
    open_++;
    ask();
  }

  // Adds some requests that time out or are cancelled, and one without a deadline, so that every client is accepted.
  void ask() {
    while (listener_->requests().size() < kRequests) {
      Listener::Ref ref = listener_->ask(one_in(2) ? -1 : static_cast<int64_t>(random_() % 3));
      if (one_in(4)) check(listener_->cancel(ref), "a new request is not outstanding");
    }
    listener_->ask(-1);
  }

  void answer(int fd) {
    check(owned_.remove(fd), "not owned");
    check(sys::send(fd, "!", 1) == 1, "send");
    sys::close(fd);
    answered_++;
  }

  void end() {
    ending_ = true;
    listener_->close();
    readiness_.close();
    owned_.drain([](int fd) { sys::close(fd); });
    uv_close(reinterpret_cast<uv_handle_t*>(&stop_), nullptr);
  }

  int shared_;
  std::mt19937 random_;
  uv_loop_t loop_;
  uv_async_t stop_;
  Listener* listener_ = nullptr;
  Listener::Completion slots_[Listener::kMaxBatch];
  FdBitSet owned_;
  Readiness readiness_{this};
  int open_ = 0;
  uint64_t answered_ = 0;
  bool ending_ = false;
};

size_t open_fds() {
  std::filesystem::directory_iterator fds("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(fds), end(fds)));
}

void client(sockaddr_in address) {
  int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  check(fd >= 0, "socket");
  check(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0, "connect");
  check(sys::send(fd, "?", 1) == 1 || errno == EPIPE || errno == ECONNRESET, "client: send");
  // If the server answered before the client sent its byte, a reset can follow the answer.
  char answer[2];
  check(sys::recv(fd, answer, 1) == 1 && answer[0] == '!', "a client received no answer");
  check(sys::recv(fd, answer, 2) <= 0, "a client received two answers");
  sys::close(fd);
}

}  // namespace

int main(int count, char** arguments) {
  check(count > 1, "usage: listeners <clients> [seed]");
  const uint64_t clients_of_thread = strtoull(arguments[1], nullptr, 10) / kThreads;
  unsigned seed = count > 2 ? static_cast<unsigned>(strtoul(arguments[2], nullptr, 10)) : std::random_device{}();
  fprintf(stderr, "%s %s %u\n", arguments[0], arguments[1], seed);
  const size_t fds = open_fds();

  int shared = sys::socket(AF_INET, SOCK_STREAM);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  check(sys::bind(shared, reinterpret_cast<sockaddr*>(&address), length) == 0, "bind");
  check(sys::listen(shared, 511) == 0, "listen");
  check(sys::getsockname(shared, reinterpret_cast<sockaddr*>(&address), &length) == 0, "getsockname");

  std::vector<std::unique_ptr<Server>> servers;
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < kThreads; i++) {
    servers.push_back(std::make_unique<Server>(shared, seed + i));
    threads.emplace_back([server = servers.back().get()] { server->run(); });
  }
  std::vector<std::thread> clients;
  for (int i = 0; i < kThreads; i++) {
    clients.emplace_back([=] {
      for (uint64_t each = 0; each < clients_of_thread; each++) client(address);
    });
  }
  for (std::thread& each : clients) each.join();
  for (auto& server : servers) server->stop();
  for (std::thread& each : threads) each.join();
  sys::close(shared);

  uint64_t answered = 0;
  for (auto& server : servers) answered += server->answered();
  check(answered == kThreads * clients_of_thread, "the number of answers differs from the number of clients");
  uv_library_shutdown();  // closes the signal pipe of libuv
  check(open_fds() == fds, "an fd is still open");
  return 0;
}
