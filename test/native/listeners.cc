// Listeners on the loops of several threads share one listening socket. While clients come they ask, cancel, run out,
// are closed, detached and opened again at random; what they accept is answered at once, or when the client has spoken.
// Without Node, so that a sanitizer and valgrind see every access: `npm run test:sanitize` starts it.
// Ends with 0 if every client got exactly one answer and no fd is left: listeners <clients> [seed]
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

#include "../../native/listener.h"
#include "../../native/owned_fds.h"
#include "../../native/readiness.h"
#include "../../native/sys.h"

namespace {

constexpr int kThreads = 4;
constexpr int kRequests = 8;

void must(bool held, const char* what) {
  if (held) return;
  fprintf(stderr, "%s (errno %d)\n", what, errno);
  abort();
}

class Server final : public Listener::Host, public Readiness::Host {
 public:
  Server(int shared, unsigned seed) : shared_(shared), random_(seed) {
    must(uv_loop_init(&loop_) == 0, "uv_loop_init");
    stop_.data = this;
    must(uv_async_init(&loop_, &stop_, [](uv_async_t* stop) { static_cast<Server*>(stop->data)->end(); }) == 0,
         "uv_async_init");
    open();
  }

  void run() {
    uv_run(&loop_, UV_RUN_DEFAULT);
    must(uv_loop_close(&loop_) == 0, "a handle is left");
    must(open_ == 0, "a listener did not say that it is closed");
  }

  // From any thread.
  void stop() { uv_async_send(&stop_); }

  uint64_t answered() const { return answered_; }

  Listener::Completion* completions() override { return ending_ ? nullptr : slots_; }
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
    must(listener->requests().empty() != outstanding || listener->fd() < 0, "told of requests that are not there");
  }

  void deliver(Listener* listener, size_t count, Listener::Capacity) override {
    must(listener == listener_, "a closed listener delivers");
    for (size_t i = 0; i < count; i++) {
      int fd = slots_[i].result;
      must(fd >= 0 || fd == -ETIMEDOUT, "a request was rejected");
      if (fd < 0) continue;
      must(sockaddrs::to_text(slots_[i].address, slots_[i].address_length) == "127.0.0.1", "another peer's address");
      if (one_in(2)) {
        answer(fd);
      } else {
        must(readiness_.watch(&loop_, fd, one_in(2)) == 0, "watch");
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
      must(readiness_.unwatch(fd) == 0, "unwatch");
      answer(fd);
    }
  }

  void readiness_closed() override {}

 private:
  bool one_in(int n) { return random_() % static_cast<unsigned>(n) == 0; }

  void open() {
    int fd = sys::dup_cloexec(shared_);
    must(fd >= 0, "dup");
    must(Listener::create(&loop_, fd, {1 + random_() % 8, false}, this, &listener_) == 0, "create");
    open_++;
    ask();
  }

  // Some requests without an end, so that clients are always asked for, and others that are cancelled or run out.
  void ask() {
    while (listener_->requests().size() < kRequests) {
      Listener::Ref ref = listener_->ask(one_in(2) ? -1 : static_cast<int64_t>(random_() % 3));
      if (one_in(4)) must(listener_->cancel(ref), "a new request is not outstanding");
    }
    listener_->ask(-1);
  }

  void answer(int fd) {
    must(owned_.remove(fd), "not owned");
    must(sys::send(fd, "!", 1) == 1, "send");
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
  OwnedFds owned_;
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
  must(fd >= 0, "socket");
  must(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0, "connect");
  must(sys::send(fd, "?", 1) == 1 || errno == EPIPE || errno == ECONNRESET, "send of a client");
  // Answered before it spoke, it may find a reset behind the answer.
  char answer[2];
  must(sys::recv(fd, answer, 1) == 1 && answer[0] == '!', "a client got no answer");
  must(sys::recv(fd, answer, 2) <= 0, "a client got two answers");
  sys::close(fd);
}

}  // namespace

int main(int count, char** arguments) {
  must(count > 1, "how many clients?");
  const uint64_t clients_of_thread = strtoull(arguments[1], nullptr, 10) / kThreads;
  unsigned seed = count > 2 ? static_cast<unsigned>(strtoul(arguments[2], nullptr, 10)) : std::random_device{}();
  fprintf(stderr, "%s %s %u\n", arguments[0], arguments[1], seed);
  const size_t fds = open_fds();

  int shared = sys::socket(AF_INET, SOCK_STREAM);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  must(sys::bind(shared, reinterpret_cast<sockaddr*>(&address), length) == 0, "bind");
  must(sys::listen(shared, 511) == 0, "listen");
  must(sys::getsockname(shared, reinterpret_cast<sockaddr*>(&address), &length) == 0, "getsockname");

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
  must(answered == kThreads * clients_of_thread, "not every answer was one client's");
  uv_library_shutdown();  // which has a pipe for signals
  must(open_fds() == fds, "an fd is left");
  return 0;
}
