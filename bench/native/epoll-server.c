// The lower bound: a C program that accepts connections with epoll and the peer's address, and closes them.
// Usage: epoll-server tcp <ipv4> | unix <path>. Implements the protocol of bench/serve.mjs.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static unsigned long long connections;

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static unsigned long long microseconds(struct timeval time) { return time.tv_sec * 1000000ULL + time.tv_usec; }

static void mark(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  printf("{\"user\":%llu,\"system\":%llu,\"connections\":%llu}\n", microseconds(usage.ru_utime),
         microseconds(usage.ru_stime), connections);
  fflush(stdout);
}

static int listen_on(const char *kind, const char *where) {
  int tcp = strcmp(kind, "tcp") == 0;
  int fd = socket(tcp ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) fail("socket");
  struct sockaddr_in in = {.sin_family = AF_INET};
  struct sockaddr_un un = {.sun_family = AF_UNIX};
  if (tcp) inet_pton(AF_INET, where, &in.sin_addr);
  else strncpy(un.sun_path, where, sizeof un.sun_path - 1);
  int error = tcp ? bind(fd, (struct sockaddr *)&in, sizeof in) : bind(fd, (struct sockaddr *)&un, sizeof un);
  if (error != 0) fail("bind");
  // The kernel reduces the backlog to its limit (net.core.somaxconn).
  if (listen(fd, 65535) != 0) fail("listen");
  socklen_t length = sizeof in;
  if (tcp) {
    getsockname(fd, (struct sockaddr *)&in, &length);
    printf("{\"host\":\"%s\",\"port\":%d}\n", where, ntohs(in.sin_port));
  } else {
    printf("{\"path\":\"%s\"}\n", where);
  }
  fflush(stdout);
  return fd;
}

static void accept_all(int listener) {
  for (;;) {
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    int fd = accept4(listener, (struct sockaddr *)&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EAGAIN) return;
      fail("accept4");
    }
    close(fd);
    connections++;
  }
}

int main(int count, char **arguments) {
  if (count != 3) {
    fprintf(stderr, "usage: %s tcp <ipv4> | unix <path>\n", arguments[0]);
    return 2;
  }
  int listener = listen_on(arguments[1], arguments[2]);
  int epoll = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event interest = {.events = EPOLLIN, .data.fd = listener};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &interest) != 0) fail("epoll_ctl");
  interest.data.fd = STDIN_FILENO;
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &interest) != 0) fail("epoll_ctl");
  for (;;) {
    struct epoll_event events[2];
    int ready = epoll_wait(epoll, events, 2, -1);
    for (int i = 0; i < ready; i++) {
      if (events[i].data.fd == listener) {
        accept_all(listener);
        continue;
      }
      char command[256];
      if (read(STDIN_FILENO, command, sizeof command) <= 0) return 0;  // the benchmark has closed the pipe
      mark();
    }
  }
}
