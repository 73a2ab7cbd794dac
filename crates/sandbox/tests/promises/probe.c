// Tries from inside what a shell cannot. Linked statically, so that it runs in
// any root. Each line of output is a name and "ok" or an error's name.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <termios.h>
#include <time.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static void report(const char *name, long result) {
  printf("%s %s\n", name, result < 0 ? strerrorname_np(errno) : "ok");
}

// A process that was made by a call that should have failed must not go on.
static void report_clone(const char *name, long flags) {
  long result = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
  if (result == 0) _exit(0);
  if (result > 0) waitpid(result, NULL, 0);
  report(name, result);
}

// The arguments are such that the kernel itself would answer with another error
// than EPERM, or with success, to whoever has no capability.
static void forbidden(void) {
  void *bad = (void *)8;
  report("mount", syscall(SYS_mount, bad, bad, bad, 0, bad));
  report("umount2", syscall(SYS_umount2, "/", 0xff0000));
  report("unshare", syscall(SYS_unshare, 1));
  report("unshare-user", syscall(SYS_unshare, CLONE_NEWUSER));
  report("setns", syscall(SYS_setns, -1, 0));
  report("pivot_root", syscall(SYS_pivot_root, "/tmp", "/tmp"));
  report("chroot", syscall(SYS_chroot, bad));
  report_clone("clone-user", CLONE_NEWUSER);
  report_clone("clone-mount", CLONE_NEWNS | CLONE_FS);
  report_clone("clone-pid", CLONE_NEWPID);
  report_clone("clone-net", CLONE_NEWNET);
  report_clone("clone-uts", CLONE_NEWUTS);
  report_clone("clone-ipc", CLONE_NEWIPC | CLONE_SYSVSEM);
  report_clone("clone-cgroup", CLONE_NEWCGROUP);
  report("ptrace", syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0));
  report("process_vm_readv", syscall(SYS_process_vm_readv, getpid(), 0, 0, 0, 0, 0));
  report("process_vm_writev", syscall(SYS_process_vm_writev, getpid(), 0, 0, 0, 0, 0));
  report("pidfd_getfd", syscall(SYS_pidfd_getfd, -1, 0, 0));
  report("kcmp", syscall(SYS_kcmp, getpid(), getpid(), 0, 0, 0));
  report("bpf", syscall(SYS_bpf, -1, 0, 0));
  report("perf_event_open", syscall(SYS_perf_event_open, bad, 0, -1, -1, 0));
  report("userfaultfd", syscall(SYS_userfaultfd, 1));
  report("io_uring_setup", syscall(SYS_io_uring_setup, 1, bad));
  report("keyctl", syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 1));
  report("add_key", syscall(SYS_add_key, "user", "name", "x", 1, KEY_SPEC_PROCESS_KEYRING));
  report("request_key", syscall(SYS_request_key, "user", "name", 0, 0));
  report("personality", syscall(SYS_personality, 0x0040000));
  report("socket-alg", socket(AF_ALG, SOCK_SEQPACKET, 0));
  report("socket-vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
  report("ioctl-tiocsti", ioctl(0, TIOCSTI, "x"));
  report("open_by_handle_at", syscall(SYS_open_by_handle_at, -1, bad, 0));
  report("fsopen", syscall(SYS_fsopen, bad, 0));
  report("open_tree", syscall(SYS_open_tree, -1, bad, 0));
  report("move_mount", syscall(SYS_move_mount, -1, bad, -1, bad, 0));
  report("mount_setattr", syscall(SYS_mount_setattr, -1, bad, 0, bad, 0));
  report("init_module", syscall(SYS_init_module, bad, 0, bad));
  report("finit_module", syscall(SYS_finit_module, -1, bad, 0));
  report("delete_module", syscall(SYS_delete_module, bad, 0));
  report("kexec_load", syscall(SYS_kexec_load, 0, 0, bad, 0));
  report("reboot", syscall(SYS_reboot, 0, 0, 0, 0));
  report("swapon", syscall(SYS_swapon, bad, 0));
  report("sethostname", syscall(SYS_sethostname, "x", 1));
  report("syslog", syscall(SYS_syslog, 99, 0, 0));
  report("quotactl", syscall(SYS_quotactl, -1, 0, 0, 0));
  report("settimeofday", syscall(SYS_settimeofday, bad, 0));
}

// As a leak checker looks at other threads.
static void trace(void) {
  pid_t child = fork();
  if (child == 0) pause(), _exit(0);
  char registers[4096];
  struct iovec room = {registers, sizeof registers};
  report("attach", ptrace(PTRACE_ATTACH, child, 0, 0));
  report("wait", waitpid(child, NULL, __WALL));
  report("registers", ptrace(PTRACE_GETREGSET, child, (void *)1 /* NT_PRSTATUS */, &room));
  errno = 0;
  report("memory", ptrace(PTRACE_PEEKDATA, child, registers, 0));
  report("set-registers", ptrace(PTRACE_SETREGSET, child, (void *)1, &room));
  report("filter", ptrace((enum __ptrace_request)0x420c /* PTRACE_SECCOMP_GET_FILTER */, child, 0, 0));
  report("detach", ptrace(PTRACE_DETACH, child, 0, 0));
  report("seize", ptrace(PTRACE_SEIZE, child, 0, 0));
  report("init", ptrace(PTRACE_ATTACH, 1, 0, 0));
  report("be-traced", ptrace(PTRACE_TRACEME, 0, 0, 0));
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
}

static void absent(void) {
  report("clone3", syscall(SYS_clone3, 0, 0));
  report("a-number-of-the-future", syscall(5000));
#ifdef __x86_64__
  report("getpid-of-x32", syscall(0x40000000 + SYS_getpid));
#endif
}

static void allowed(void) {
  report_clone("fork", 0);
  report("personality-query", syscall(SYS_personality, 0xffffffff));
  report("socket-unix", socket(AF_UNIX, SOCK_STREAM, 0));
  report("memfd_create", syscall(SYS_memfd_create, "x", 0));
  int file = open("/tmp/file", O_RDWR | O_CREAT, 0600);
  report("write", write(file, "x", 1));
  report("mkfifo", mkfifo("/tmp/fifo", 0600));
}

// Talks to itself over the loopback.
static long talks(int family, int kind) {
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
  void *address = family == AF_INET ? (void *)&v4 : &v6;
  socklen_t length = family == AF_INET ? sizeof v4 : sizeof v6;
  char byte = 0;
  int here = socket(family, kind, 0), there = socket(family, kind, 0);
  if (bind(there, address, length) != 0 || getsockname(there, address, &length) != 0 ||
      (kind == SOCK_STREAM && listen(there, 1) != 0) || connect(here, address, length) != 0)
    return -1;
  if (kind == SOCK_STREAM) there = accept(there, NULL, NULL);
  return write(here, "x", 1) == 1 && read(there, &byte, 1) == 1 && byte == 'x' ? 0 : -1;
}

// Beyond the loopback is nothing.
static long goes_out(int family, int kind) {
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = 9};
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = 9};
  inet_pton(AF_INET, "192.0.2.1", &v4.sin_addr);
  inet_pton(AF_INET6, "2001:db8::1", &v6.sin6_addr);
  void *address = family == AF_INET ? (void *)&v4 : &v6;
  return connect(socket(family, kind, 0), address, family == AF_INET ? sizeof v4 : sizeof v6);
}

static void loopback(void) {
  const int families[] = {AF_INET, AF_INET6}, kinds[] = {SOCK_STREAM, SOCK_DGRAM};
  const char *const names[] = {"tcp4", "udp4", "tcp6", "udp6"}, *const outside[] = {"tcp4-out", "udp4-out", "tcp6-out", "udp6-out"};
  for (int at = 0; at < 4; at++) {
    report(names[at], talks(families[at / 2], kinds[at % 2]));
    report(outside[at], goes_out(families[at / 2], kinds[at % 2]));
  }
  report("raw", socket(AF_INET, SOCK_RAW, IPPROTO_TCP));
  report("packet", socket(AF_PACKET, SOCK_RAW, 0));
  report("ping", socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
  report("mptcp", socket(AF_INET, SOCK_STREAM, 262));
  report("routes", socket(AF_NETLINK, SOCK_RAW, 0));
  report("audit", socket(AF_NETLINK, SOCK_RAW, 9));
}

// A terminal of its own, which a child has for its standard streams.
static void terminal(void) {
  char name[64], text[64] = "";
  int here = posix_openpt(O_RDWR | O_NOCTTY);
  report("ptmx", here);
  report("grantpt", grantpt(here));
  report("unlockpt", unlockpt(here));
  report("ptsname", -ptsname_r(here, name, sizeof name));
  pid_t child = fork();
  if (child == 0) {
    setsid();
    int there = open(name, O_RDWR);
    for (int at = 0; at < 3; at++) dup2(there, at);
    if (!isatty(0) || !isatty(1)) _exit(1);
    execl("/bin/sh", "sh", "-c", "tty", NULL);
  }
  int status;
  waitpid(child, &status, 0);
  errno = EIO;
  report("child", status == 0 && read(here, text, sizeof text - 1) > 0 && !strncmp(text, name, strlen(name)) ? 0 : -1);
  int other = open(name, O_RDWR | O_NOCTTY), discipline = 3;
  report("change-its-mode", fchmod(other, 0666));
  report("change-its-owner", chown(name, 0, 0));
  report("change-the-multiplexer", utimensat(AT_FDCWD, "/dev/pts/ptmx", NULL, 0));
  report("other-discipline", ioctl(other, TIOCSETD, &discipline));
  report("type-into-it", ioctl(other, TIOCSTI, "x"));
  int more = 1;
  while (posix_openpt(O_RDWR | O_NOCTTY) >= 0) more++;
  printf("%d %s\n", more, strerrorname_np(errno));
}

int main(int count, char **arguments) {
  const char *what = count > 1 ? arguments[1] : "";
  if (!strcmp(what, "forbidden")) {
    forbidden();
  } else if (!strcmp(what, "absent")) {
    absent();
  } else if (!strcmp(what, "allowed")) {
    allowed();
  } else if (!strcmp(what, "loopback")) {
    loopback();
  } else if (!strcmp(what, "terminal")) {
    terminal();
  } else if (!strcmp(what, "trace")) {
    trace();
  } else if (!strcmp(what, "ids")) {
    uid_t uids[3];
    gid_t gids[3];
    getresuid(&uids[0], &uids[1], &uids[2]);
    getresgid(&gids[0], &gids[1], &gids[2]);
    printf("%d %d %d %d %d %d\n", uids[0], uids[1], uids[2], gids[0], gids[1], gids[2]);
  } else if (!strcmp(what, "hog")) {
    size_t bytes = (size_t)atol(arguments[2]) << 20;
    volatile char *memory = malloc(bytes);
    for (size_t at = 0; at < bytes; at += 4096) memory[at] = 1;
    puts("got it");
  } else if (!strcmp(what, "burn")) {
    clock_t wanted = atol(arguments[2]) * (CLOCKS_PER_SEC / 1000);
    while (clock() < wanted) {}
#ifdef __x86_64__
  } else if (!strcmp(what, "int80")) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory");
    printf("%ld\n", result);
#endif
  } else {
    return 2;
  }
  return 0;
}
