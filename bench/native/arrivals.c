// An open-loop load: clients arrive at a given rate whether or not earlier ones were answered. Each connects, sends one
// HTTP request, and reads until the server closes. Prints {"failures":n,"took":[us, ...]}: the sorted times from
// connect() to the first byte of each response.
// Usage: arrivals <ipv4> <port> <count> <per second>
//
// The times are random (Poisson), so that clients meet as they do in reality, but the same in each run, so that all
// contenders receive the same clients.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

// The number of source addresses, from 127.1.0.1. One address may run out of ports, because the server closes first and
// its side stays in TIME_WAIT.
#define SOURCES 64
// In seconds, without an event. A longer wait for a response is a failure.
#define PATIENCE 20

static const char request[] = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

struct client {
  int fd;
  int sent, answered;
  double connected;
};

static struct sockaddr_in server = {.sin_family = AF_INET};
static int epoll, failures;
static long open_clients, answers;
static double* took;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec / 1e9;
}

static void fail(const char* what) {
  perror(what);
  exit(1);
}

static void end(struct client* client, int failed) {
  failures += failed;
  close(client->fd);
  open_clients--;
}

static void connect_client(struct client* client, long number) {
  client->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (client->fd < 0) fail("socket");
  open_clients++;
  const int on = 1;
  setsockopt(client->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
  struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f010001 + number % SOURCES)};
  if (bind(client->fd, (struct sockaddr*)&source, sizeof source) != 0) fail("bind");
  struct epoll_event interest = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = client};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, client->fd, &interest) != 0) fail("epoll_ctl");
  client->connected = now();
  if (connect(client->fd, (struct sockaddr*)&server, sizeof server) != 0 && errno != EINPROGRESS) end(client, 1);
}

static void advance(struct client* client, uint32_t events) {
  if ((events & EPOLLOUT) && !client->sent) {
    client->sent = 1;
    if (send(client->fd, request, sizeof request - 1, MSG_NOSIGNAL) != sizeof request - 1) return end(client, 1);
  }
  if (!(events & (EPOLLIN | EPOLLERR | EPOLLHUP))) return;
  for (;;) {
    char bytes[4096];
    ssize_t count = read(client->fd, bytes, sizeof bytes);
    if (count > 0 && !client->answered) {
      client->answered = 1;
      took[answers++] = (now() - client->connected) * 1e6;
    }
    if (count > 0) continue;
    if (count < 0 && errno == EAGAIN) return;
    return end(client, count < 0 || !client->answered);
  }
}

static int ascending(const void* left, const void* right) {
  double a = *(const double*)left, b = *(const double*)right;
  return (a > b) - (a < b);
}

int main(int count, char** arguments) {
  if (count != 5) {
    fprintf(stderr, "usage: %s <ipv4> <port> <count> <per second>\n", arguments[0]);
    return 2;
  }
  inet_pton(AF_INET, arguments[1], &server.sin_addr);
  server.sin_port = htons(atoi(arguments[2]));
  long clients = atol(arguments[3]);
  double rate = atof(arguments[4]);
  struct rlimit fd_limit;
  getrlimit(RLIMIT_NOFILE, &fd_limit);
  fd_limit.rlim_cur = fd_limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &fd_limit);
  struct client* all = calloc(clients, sizeof *all);
  took = calloc(clients, sizeof *took);
  epoll = epoll_create1(EPOLL_CLOEXEC);
  int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  struct epoll_event interest = {.events = EPOLLIN, .data.ptr = NULL};
  if (epoll < 0 || timer < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &interest) != 0) fail("epoll");

  unsigned short seed[3] = {1, 2, 3};
  double due = now();
  for (long next = 0; next < clients || open_clients > 0;) {
    while (next < clients && due <= now()) {
      connect_client(&all[next], next);
      next++;
      due += -log(1 - erand48(seed)) / rate;
    }
    if (next < clients) {
      struct itimerspec at = {.it_value = {.tv_sec = (time_t)due, .tv_nsec = (long)((due - (time_t)due) * 1e9)}};
      timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
    }
    struct epoll_event events[64];
    int ready = epoll_wait(epoll, events, 64, PATIENCE * 1000);
    if (ready < 0 && errno != EINTR) fail("epoll_wait");
    if (ready == 0) {
      failures += open_clients;
      break;
    }
    for (int i = 0; i < ready; i++) {
      struct client* client = events[i].data.ptr;
      uint64_t expirations;
      if (client != NULL)
        advance(client, events[i].events);
      else if (read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
        fail("read");
    }
  }
  qsort(took, answers, sizeof *took, ascending);
  printf("{\"failures\":%d,\"took\":[", failures);
  for (long i = 0; i < answers; i++) printf("%s%.1f", i > 0 ? "," : "", took[i]);
  printf("]}\n");
  return failures == 0 ? 0 : 1;
}
