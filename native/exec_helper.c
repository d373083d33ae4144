// Writes its own pid into LISTEN_PID and becomes another program: what sd_listen_fds(3) wants, and what the parent
// cannot do, because the pid is known only after fork(2).
//
//   argv[0]  the fd to which the errno of a failure is written, as an int; it is closed when the program starts
//   argv[1]  the program, searched as execvp(3) does
//   argv[2]  the first of its arguments, its argv[0]
//
// LISTEN_PID is in the environment already, with ten digits. A leading '=' is removed from every entry: it keeps
// variables such as LD_PRELOAD from having effect here. With fewer arguments it does nothing, and succeeds.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

extern char** environ;

static const char listen_pid[] = "LISTEN_PID=";

static void write_pid(char* digits) {
  char reversed[16];
  size_t length = 0;
  for (pid_t rest = getpid(); rest > 0; rest /= 10) reversed[length++] = (char)('0' + rest % 10);
  size_t room = strlen(digits);
  if (length > room) return;
  while (length > 0) *digits++ = reversed[--length];
  *digits = '\0';
}

int main(int argc, char** argv) {
  if (argc < 3) return 0;
  int report = 0;
  for (const char* digit = argv[0]; *digit != '\0'; digit++) report = 10 * report + (*digit - '0');
  fcntl(report, F_SETFD, FD_CLOEXEC);
  for (char** entry = environ; *entry != NULL; entry++) {
    if (**entry == '=') {
      ++*entry;
    } else if (strncmp(*entry, listen_pid, sizeof listen_pid - 1) == 0) {
      write_pid(*entry + sizeof listen_pid - 1);
    }
  }
  execvp(argv[1], argv + 2);
  int error = errno;
  // Nothing is left to do if it fails: the parent takes the end of the file for a success, and sees the exit code.
  ssize_t written = write(report, &error, sizeof error);
  return written < 0 ? 126 : 127;
}

#ifdef __GLIBC__
// What the start files call before main. That of glibc 2.34 and later is a symbol that older versions lack; everything
// used above works without it, because the dynamic linker has initialized the library.
// NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp)
int __libc_start_main(int (*start)(int, char**, char**), int argc, char** argv);
int __libc_start_main(int (*start)(int, char**, char**), int argc, char** argv) {
  environ = argv + argc + 1;
  _exit(start(argc, argv, environ));
}
// NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp)
#endif
