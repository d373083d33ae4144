// The load generator: bursts of connections that wait in the backlog of a stopped server, which then continues.
// Usage: storm tcp <ipv4> <port> | unix <path>, then <server pid> <connections> <burst> gone | stay
//
// On loopback, the kernel charges the work that a packet causes at its receiver to the system call of the sender. A
// server that is measured while clients connect and receive its close() therefore also pays for their half of TCP. To
// avoid that, the server is stopped (SIGSTOP) while a burst connects. With "gone", all clients but the last reset
// before the server continues, so its CPU time is only its own. With "stay", they wait for its close(), which is
// included.
//
// The time of a burst is from SIGCONT until the server has closed its last connection. Clients close with SO_LINGER and
// a timeout of 0, so that neither side stays in TIME_WAIT and ports do not run out.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

// The number of source addresses, from 127.1.0.1, for a server on 127.0.0.0/8. One address has 28,000 ports by default,
// and the kernel has to search when a port was used recently.
#define SOURCES 64

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec / 1e9;
}

static int failures;

static int failed(const char *what, int fd) {
  if (failures++ == 0) perror(what);
  if (fd >= 0) close(fd);
  return -1;
}

static int open_tcp(const struct sockaddr_in *server) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return failed("socket", fd);
  const struct linger at_once = {1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  if ((ntohl(server->sin_addr.s_addr) >> 24) == 127) {
    static unsigned number;
    const int on = 1;
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f010001 + number++ % SOURCES)};
    if (bind(fd, (struct sockaddr *)&source, sizeof source) != 0) return failed("bind", fd);
  }
  if (connect(fd, (const struct sockaddr *)server, sizeof *server) != 0) return failed("connect", fd);
  return fd;
}

static int open_unix(const struct sockaddr_un *server) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return failed("socket", fd);
  if (connect(fd, (const struct sockaddr *)server, sizeof *server) != 0) return failed("connect", fd);
  return fd;
}

static void wait_for_close(int fd) {
  char byte;
  if (fd >= 0 && read(fd, &byte, 1) != 0) failed("read", -1);
}

// Returns the time, in seconds, that the server took for `count` connections.
static double burst(pid_t server, const struct sockaddr_in *in, const struct sockaddr_un *un, int *fds, long count,
                    int stay) {
  if (kill(server, SIGSTOP) != 0) failed("kill", -1);
  for (long i = 0; i < count; i++) fds[i] = in != NULL ? open_tcp(in) : open_unix(un);
  long first = stay ? 0 : count - 1;
  for (long i = 0; i < first; i++) close(fds[i]);
  double start = now();
  kill(server, SIGCONT);
  for (long i = first; i < count; i++) wait_for_close(fds[i]);
  double elapsed = now() - start;
  for (long i = first; i < count; i++) close(fds[i]);
  return elapsed;
}

int main(int count, char **arguments) {
  int tcp = count == 8 && strcmp(arguments[1], "tcp") == 0;
  if (!tcp && !(count == 7 && strcmp(arguments[1], "unix") == 0)) {
    fprintf(stderr, "usage: %s (tcp <ipv4> <port> | unix <path>) <server pid> <connections> <burst> gone|stay\n",
            arguments[0]);
    return 2;
  }
  struct sockaddr_in in = {.sin_family = AF_INET};
  struct sockaddr_un un = {.sun_family = AF_UNIX};
  if (tcp) {
    inet_pton(AF_INET, arguments[2], &in.sin_addr);
    in.sin_port = htons(atoi(arguments[3]));
  } else {
    strncpy(un.sun_path, arguments[2], sizeof un.sun_path - 1);
  }
  pid_t server = atoi(arguments[count - 4]);
  long connections = atol(arguments[count - 3]);
  long largest = atol(arguments[count - 2]);
  int stay = strcmp(arguments[count - 1], "stay") == 0;
  if (server < 1 || connections < 1 || largest < 1) return 2;
  signal(SIGPIPE, SIG_IGN);
  struct rlimit fd_limit;
  getrlimit(RLIMIT_NOFILE, &fd_limit);
  fd_limit.rlim_cur = fd_limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &fd_limit);
  int *fds = malloc(largest * sizeof *fds);

  double elapsed = 0;
  for (long done = 0; done < connections;) {
    long next = connections - done < largest ? connections - done : largest;
    elapsed += burst(server, tcp ? &in : NULL, &un, fds, next, stay);
    done += next;
  }
  printf("{\"connections\":%ld,\"failures\":%d,\"seconds\":%.6f}\n", connections, failures, elapsed);
  free(fds);
  return failures == 0 ? 0 : 1;
}
