// Writes its own pid into LISTEN_PID and then executes another program. sd_listen_fds(3) ignores the fds if LISTEN_PID
// is not the pid of the program. The parent cannot set LISTEN_PID, because the pid is known only after fork(2).
//
//   argv[0]  numbers, separated by commas. The first is the fd to which the errno of a failure is written, as an int;
//            execvp(3) closes this fd on success. Optional: the signal that the program gets when its parent ends
//            (PR_SET_PDEATHSIG, prctl(2)), and the pid of that parent
//   argv[1]  the program, found as execvp(3) finds it
//   argv[2]  the first argument of that program, its argv[0]; its other arguments follow
//
// The environment must contain LISTEN_PID with a value of ten digits. A leading '=' is removed from each entry of the
// environment. The parent adds it to variables such as LD_PRELOAD, so that they have no effect on this helper. With
// fewer than three arguments, the helper does nothing and exits with 0.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
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

// Reads a number and the comma after it. Returns 0 at the end of the text.
static int next_number(const char** text) {
  int number = 0;
  while (**text >= '0' && **text <= '9') number = 10 * number + (*(*text)++ - '0');
  if (**text == ',') ++*text;
  return number;
}

int main(int argc, char** argv) {
  if (argc < 3) return 0;
  const char* numbers = argv[0];
  int report = next_number(&numbers);
  int death_signal = next_number(&numbers);
  int parent = next_number(&numbers);
  fcntl(report, F_SETFD, FD_CLOEXEC);
  if (death_signal != 0) {
    prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0);
    // The parent has ended before the call. No signal will come.
    if (getppid() != parent) return 0;
  }
  for (char** entry = environ; *entry != NULL; entry++) {
    if (**entry == '=') {
      ++*entry;
    } else if (strncmp(*entry, listen_pid, sizeof listen_pid - 1) == 0) {
      write_pid(*entry + sizeof listen_pid - 1);
    }
  }
  execvp(argv[1], argv + 2);
  int error = errno;
  // If write(2) fails, nothing else can be done. The parent then reads end-of-file, which also means success, and sees
  // only the exit code.
  ssize_t written = write(report, &error, sizeof error);
  return written < 0 ? 126 : 127;
}

#ifdef __GLIBC__
// This function replaces the one in the C library that calls main(). In glibc 2.34 and later, that function has a
// symbol version that older glibc lacks, so the program would not start there. The code above does not need the
// initialization in that function, because the dynamic linker has initialized the library.
// NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp)
int __libc_start_main(int (*start)(int, char**, char**), int argc, char** argv);
int __libc_start_main(int (*start)(int, char**, char**), int argc, char** argv) {
  environ = argv + argc + 1;
  _exit(start(argc, argv, environ));
}
// NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp)
#endif
