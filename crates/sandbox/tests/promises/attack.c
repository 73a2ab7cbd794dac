// Tries from inside all that is denied, and says of each attempt whether the
// sandbox held. Linked statically, so that it runs in any root. Each line of
// output is a name and "held" or "BROKEN"; arguments say what there is on the
// host to get at:
//   attack all FOLDER PORT ABSTRACT NULL CLOCKS
//                                     FOLDER holds "marker", PORT listens on the
//                                     host's loopback, ABSTRACT is a socket's name, NULL
//                                     the number of the host's /dev/null, CLOCKS the
//                                     host's time namespace
//   attack bomb                       how many processes it can make; keeps them
//   attack flood                      how many descriptors it can have on their way
//                                     over sockets; keeps them there
//   attack charge                     how many it can have of what is charged to
//                                     whoever runs the runner, and how many more as
//                                     another user; keeps them
//   attack fill-sockets               how many MiB of the kernel's memory it can have in
//                                     sockets of its loopback
//   attack calls                      which system calls exist for it
//   attack leave | attack look        whether two processes can meet
//   attack held PATH READ             two descriptors of the program that it was before,
//                                     the first one of its path alone
//   attack without-landlock PROGRAM…  executes it as on a kernel without Landlock: on
//                                     the host, not in a sandbox
//   attack with-listener PROGRAM…     executes it where somebody listens to a filter already: on
//                                     the host, not in a sandbox
//   attack swap                       swaps what is mounted on, and what is around it,
//                                     with links until its input ends; first says which
//                                     it could
//   attack lock FILE                  locks it until there is input
//   attack notice FILE                watches it until there is input, and says whether
//                                     anything was done to it meanwhile
//   attack trace KIND [and-wait]      leaves one where the next process is, undone
//                                     as far as that goes, and says "left"
//   attack joint first | second       on one side of a pipe that two processes share:
//                                     what it finds there, and what it can change; on
//                                     standard error, the second one up to "done". The
//                                     first one goes on when it has input
//   attack place                      says which place it is in
//   attack cached FILE                whether its first page is in the page cache: on the
//                                     host, not in a sandbox
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <linux/netlink.h>
#include <mqueue.h>
#include <poll.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static void verdict(const char *name, int broken) {
  printf("%s %s\n", name, broken ? "BROKEN" : "held");
}

#define COUNT(array) (sizeof array / sizeof *array)

// The attempt is worth something if its value is not 0.
#define TRY(name, attempt) verdict(name, (attempt) != 0)

static int opens(const char *path, int flags) {
  int file = open(path, flags | O_CLOEXEC | O_NONBLOCK, 0600);
  if (file >= 0) close(file);
  return file >= 0;
}

// Is there anything to read?
static int tells(const char *path) {
  char byte;
  int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return 0;
  int told = read(file, &byte, 1) > 0;
  close(file);
  return told;
}

static int has_entries(const char *path) {
  DIR *folder = opendir(path);
  if (!folder) return 0;
  int count = 0;
  while (readdir(folder)) count++;
  closedir(folder);
  return count > 2;
}

static int mentions(const char *path, const char *text) {
  static char content[1 << 20];
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  size_t length = 0;
  for (ssize_t got; (got = read(file, content + length, sizeof content - length)) > 0;) length += got;
  close(file);
  return memmem(content, length, text, strlen(text)) != NULL;
}

// Ways from here to a path of the host.
static int reaches(const char *marker) {
  char path[8192];
  const char *const ways[] = {"", "/../../../../../../../..", "/proc/self/root", "/proc/self/cwd/../../../..",
                              "/proc/1/root", "/proc/1/cwd/../../..", "/proc/1/task/1/root",
                              "/dev/fd/../../../.."};
  for (size_t at = 0; at < sizeof ways / sizeof *ways; at++) {
    snprintf(path, sizeof path, "%s%s", ways[at], marker);
    if (opens(path, O_RDONLY)) return 1;
  }
  return 0;
}

// runc's CVE-2024-21626: a folder of the host that was left open.
static int leaked_folder(const char *marker) {
  char path[8192];
  for (int file = 0; file < 1024; file++) {
    struct stat found;
    if (file > 2 && fstat(file, &found) == 0) return 1;
    for (int who = 0; who < 2; who++) {
      snprintf(path, sizeof path, "/proc/%s/fd/%d/../../../../../..%s", who ? "1" : "self", file, marker);
      if (opens(path, O_RDONLY)) return 1;
    }
  }
  return 0;
}

static int three_are_pipes(void) {
  struct stat found;
  for (int file = 0; file < 3; file++)
    if (fstat(file, &found) != 0 || !S_ISFIFO(found.st_mode)) return 0;
  return 1;
}

// runc's CVE-2019-5736: the program outside, through the one inside.
static int own_program_written(void) {
  const char *const paths[] = {"/proc/self/exe", "/proc/1/exe", "/proc/self/task/../exe"};
  for (size_t at = 0; at < 3; at++)
    if (opens(paths[at], O_WRONLY) || opens(paths[at], O_RDWR | O_TRUNC) || chmod(paths[at], 0777) == 0) return 1;
  return 0;
}

static int knows_the_seal_of_modes(void) {
  int file = memfd_create("sealed", MFD_ALLOW_SEALING);
  int knows = fcntl(file, F_ADD_SEALS, 0x20 /* F_SEAL_EXEC, of Linux 6.3 */) == 0;
  close(file);
  return knows;
}

// The same when the process executes it no more, by what it has kept of it. That
// somebody else still does (the zygote) is no answer: that may change.
static void held(const char *by_path, int to_read) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%s", by_path);
  const int flags[] = {O_WRONLY, O_RDWR, O_WRONLY | O_APPEND, O_WRONLY | O_TRUNC};
  int changed = 0, busy = 0, last = 0;
  for (size_t at = 0; at < 4; at++) {
    int file = open(path, flags[at] | O_CLOEXEC);
    last = errno;
    if (file >= 0) changed |= write(file, "x", 1) > 0 || ftruncate(file, 0) == 0 || fallocate(file, 0, 0, 1 << 26) == 0;
    if (file < 0) busy |= last == ETXTBSY;
  }
  changed |= truncate(path, 0) == 0 || ftruncate(to_read, 0) == 0 || write(to_read, "x", 1) > 0;
  void *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, to_read, 0);
  changed |= mapped != MAP_FAILED;
  TRY("write-to-the-program-by-what-was-held", changed);
  const int all = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;
  int seals = fcntl(to_read, F_GET_SEALS);
  int sealed = seals >= 0 && (seals & all) == all;
  TRY("program-is-only-busy", busy && last != EROFS && !sealed);
  TRY("mode-of-the-program", (chmod(path, 0) == 0 || fchmod(to_read, 0) == 0) && (!sealed || knows_the_seal_of_modes()));
  TRY("link-to-the-program", linkat(AT_FDCWD, path, AT_FDCWD, "/tmp/linked", AT_SYMLINK_FOLLOW) == 0);
}

// The classic way out of a cgroup of version 1, with a namespace of one's own if
// that helps.
static int release_agent(void) {
  mkdir("/tmp/cg", 0700);
  const char *const controllers[] = {"rdma", "memory", "pids", "cpu", "none,name=systemd", ""};
  for (int unshared = 0; unshared < 2; unshared++) {
    if (unshared && syscall(SYS_unshare, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWCGROUP) != 0) break;
    for (size_t at = 0; at < 6; at++)
      if (mount("cgroup", "/tmp/cg", *controllers[at] ? "cgroup" : "cgroup2", 0, controllers[at]) == 0) return 1;
  }
  return opens("/sys/fs/cgroup/release_agent", O_WRONLY) || opens("/sys/fs/cgroup/memory/release_agent", O_WRONLY);
}

static int typed(void) {
  int tty = open("/dev/tty", O_RDWR | O_NOCTTY);
  int broken = 0;
  for (int file = 0; file < 3; file++) broken |= ioctl(file, TIOCSTI, "x") == 0;
  // An answer other than the filter's would mean that the kernel was asked.
  broken |= ioctl(0, TIOCSTI, "x") == 0 || errno != EPERM;
  broken |= ioctl(0, TIOCLINUX, "x") == 0 || errno != EPERM;
  // With bits that the kernel ignores and a careless filter does not.
  broken |= syscall(SYS_ioctl, 0, TIOCSTI | 0x100000000UL, "x") == 0 || errno != EPERM;
  return broken || tty >= 0;
}

// The files of devices are the host's own, for all links.
static int changes_devices(void) {
  const char *const names[] = {"full", "null", "random", "urandom", "zero"};
  char path[64];
  for (size_t at = 0; at < 5; at++) {
    snprintf(path, sizeof path, "/dev/%s", names[at]);
    struct stat found;
    if (stat(path, &found) != 0) return 1;
    if (utimensat(AT_FDCWD, path, NULL, 0) == 0 || chmod(path, found.st_mode) == 0 || chown(path, -1, -1) == 0 ||
        setxattr(path, "user.x", "x", 1, 0) == 0)
      return 1;
  }
  int null = open("/dev/null", O_WRONLY);
  return write(null, "x", 1) != 1;
}

// Makes others wait who open a file of the image, which is theirs as well.
static int leases(void) {
  int file = open("/etc/group", O_RDONLY);
  return file < 0 || fcntl(file, F_SETLEASE, F_WRLCK) == 0 || errno != EPERM;
}

// A hint about how long what is written will live lies in the inode, and nobody sees it
// but who asks: for a later process of the link, or, of a device, for anybody.
static int leaves_hints(void) {
  enum { SET_HINT = 1036, SET_FILE_HINT = 1038 };
  const char *const paths[] = {"/etc/group", "/", "/tmp", "/dev/null", "/proc/self/ns/uts", "/proc/version"};
  unsigned long hint = 3;
  for (size_t at = 0; at < COUNT(paths); at++) {
    int file = open(paths[at], O_RDONLY | O_CLOEXEC);
    if (file < 0) return 1;
    const int commands[] = {SET_HINT, SET_FILE_HINT, 1039, 1040, 1050, 35, 39, 18, -1};
    for (size_t command = 0; command < COUNT(commands); command++)
      if (fcntl(file, commands[command], &hint) == 0 || errno != EINVAL) return 1;
    close(file);
  }
  return 0;
}

// Flags, keys, labels and policies of files and file systems; what namespaces and
// processes tell. An answer other than the filter's would mean that the kernel was asked.
static int asks_for_more(void) {
  const unsigned long requests[] = {0x40086602, 0x401c5820, 0xc0506617, 0x800c6613, 0xc0045877, 0xc020660b,
                                    0x41009432, 0xc0189436, 0xb701,     0xb702,     0x8008b707, 0xc048ff0b,
                                    0xff01,     0x5708,     0x8940,     0x8982,     0x89a0,     0x40086602 | 0x100000000UL};
  const char *const paths[] = {"/etc/group", "/tmp", "/dev/null", "/proc/self/ns/user"};
  char room[256] = {0};
  for (size_t at = 0; at < COUNT(paths); at++) {
    int file = open(paths[at], O_RDONLY | O_CLOEXEC);
    for (size_t request = 0; request < COUNT(requests); request++)
      if (syscall(SYS_ioctl, file, requests[request], room) == 0 || errno != ENOTTY) return 1;
    close(file);
  }
  // What programs ask for all the time is there.
  int waiting = -1;
  return ioctl(0, FIONREAD, &waiting) != 0 || waiting < 0 || ioctl(1, TCGETS, room) == 0 || errno != ENOTTY;
}

// A program in the kernel's memory, of which all of the host have so much together.
static int filters_socket(void) {
  struct sock_filter pass = BPF_STMT(BPF_RET | BPF_K, 0xffff);
  struct sock_fprog filter = {1, &pass};
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return 1;
  const int options[] = {SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_REUSEPORT_EBPF};
  for (size_t at = 0; at < COUNT(options); at++)
    if (setsockopt(pair[0], SOL_SOCKET, options[at], &filter, sizeof filter) == 0 || errno != EPERM) return 1;
  close(pair[0]);
  close(pair[1]);
  return 0;
}

// How much time init has spent is what earlier processes in its place made it spend.
static int tells_time_of_init(void) {
  struct timespec time;
  timer_t timer;
  for (int which = 0; which < 8; which++) {
    clockid_t clock = (clockid_t)((~1u << 3) | which);
    if (syscall(SYS_clock_gettime, clock, &time) == 0 || errno != EINVAL || syscall(SYS_clock_getres, clock, &time) == 0 ||
        syscall(SYS_timer_create, clock, NULL, &timer) == 0)
      return 1;
  }
  return clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time) != 0;
}

// Advice to let go of pages of a file that all who have the image share.
static int evicts(void) {
  int file = open("/bin/busybox", O_RDONLY | O_CLOEXEC);
  unsigned char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0), there = 0;
  if (file < 0 || page == MAP_FAILED) return 1;
  volatile unsigned char touched = page[0];
  (void)touched;
  int told = posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0 && madvise(page, 4096, 21 /* MADV_PAGEOUT */) == 0 &&
             madvise(page, 4096, 20 /* MADV_COLD */) == 0 && madvise(page, 4096, 12 /* MADV_MERGEABLE */) == 0;
  munmap(page, 4096);
  told &= posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0;
  page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0);
  int gone = mincore(page, 4096, &there) != 0 || !(there & 1);
  int collapsed = madvise(page, 4096, 25 /* MADV_COLLAPSE */) == 0 || errno != EINVAL;
  return !told || gone || collapsed;
}

// An access control list is memory of the kernel's that no cgroup counts: 64 KiB each, two
// a folder.
static int sets_attributes(void) {
  static char list[65536] = {2};
  for (size_t at = 4; at + 8 <= sizeof list; at += 8) list[at] = 2, list[at + 4] = at, list[at + 5] = at >> 8;
  const char *const names[] = {"system.posix_acl_access", "system.posix_acl_default", "user.x"};
  int file = memfd_create("x", 0);
  mkdir("/tmp/listed", 0700);
  for (size_t at = 0; at < COUNT(names); at++)
    if (setxattr("/tmp/listed", names[at], list, sizeof list, 0) == 0 || errno != EOPNOTSUPP ||
        lsetxattr("/tmp", names[at], list, 28, 0) == 0 || errno != EOPNOTSUPP ||
        fsetxattr(file, names[at], list, sizeof list, 0) == 0 || errno != EOPNOTSUPP)
      return 1;
  close(file);
  return 0;
}

static int is_null_of_the_host(const char *number) {
  struct stat found;
  char own[64];
  if (stat("/dev/null", &found) != 0) return 1;
  snprintf(own, sizeof own, "%lu:%lu", (unsigned long)found.st_dev, (unsigned long)found.st_ino);
  return !strcmp(own, number);
}

static int has_clocks_of_the_host(const char *clocks) {
  char own[64] = {0};
  return readlink("/proc/self/ns/time", own, sizeof own - 1) > 0 && !strcmp(own, clocks);
}

static int device(int major, int minor, int kind) {
  const char *const places[] = {"/tmp/device", "/dev/shm/device", "/device", "/run/device"};
  for (size_t at = 0; at < 4; at++)
    if (mknod(places[at], kind | 0600, makedev(major, minor)) == 0) {
      int usable = opens(places[at], O_RDONLY);
      unlink(places[at]);
      if (usable) return 1;
    }
  return 0;
}

static int connects(int family, const char *address, int port, int kind) {
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
  int file = socket(family, kind | SOCK_CLOEXEC, 0);
  if (file < 0) return 0;
  struct timeval second = {1, 0};
  setsockopt(file, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof second);
  int result;
  if (family == AF_INET) {
    inet_pton(AF_INET, address, &v4.sin_addr);
    result = connect(file, (void *)&v4, sizeof v4);
  } else {
    inet_pton(AF_INET6, address, &v6.sin6_addr);
    result = connect(file, (void *)&v6, sizeof v6);
  }
  if (result == 0 && kind == SOCK_DGRAM) {
    // The answer that nobody is there comes at once over a loopback.
    int refused = 0;
    socklen_t length = sizeof refused;
    result = send(file, "x", 1, 0) == 1 && getsockopt(file, SOL_SOCKET, SO_ERROR, &refused, &length) == 0 && !refused ? 0 : -1;
  }
  close(file);
  return result == 0;
}

static socklen_t abstract(struct sockaddr_un *address, const char *name) {
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  strncpy(address->sun_path + 1, name, sizeof address->sun_path - 2);
  return offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
}

static int connects_abstract(const char *name) {
  struct sockaddr_un address;
  socklen_t length = abstract(&address, name);
  int stream = socket(AF_UNIX, SOCK_STREAM, 0), datagram = socket(AF_UNIX, SOCK_DGRAM, 0);
  int broken = connect(stream, (void *)&address, length) == 0 ||
               sendto(datagram, "x", 1, 0, (void *)&address, length) == 1;
  close(stream);
  close(datagram);
  return broken;
}

static int configures_network(void) {
  struct {
    struct nlmsghdr header;
    char body[16];
  } up = {{sizeof up, 16 /* RTM_NEWLINK */, NLM_F_REQUEST | NLM_F_ACK, 1, 0}, {0}};
  up.body[4] = 1;            // interface 1, lo
  up.body[8] = up.body[12] = 1;  // IFF_UP
  int file = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
  if (file < 0) return 0;
  char answer[512] = {0};
  struct nlmsgerr *error = (void *)(answer + sizeof(struct nlmsghdr));
  if (send(file, &up, sizeof up, 0) < 0 || recv(file, answer, sizeof answer, 0) < 0) return 0;
  close(file);
  return error->error == 0;
}

static int configures_loopback(void) {
  int file = socket(AF_INET, SOCK_DGRAM, 0);
  if (file < 0) return 0;
  struct ifreq lo = {.ifr_name = "lo", .ifr_flags = 0};
  int changed = ioctl(file, SIOCSIFFLAGS, &lo) == 0;
  lo.ifr_mtu = 1280;
  changed |= ioctl(file, SIOCSIFMTU, &lo) == 0;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(0x0a000001)}};
  memcpy(&lo.ifr_addr, &address, sizeof address);
  changed |= ioctl(file, SIOCSIFADDR, &lo) == 0;
  close(file);
  return changed;
}

// What has one budget for all of the host, or is memory that nobody counts.
static int sets_options_of_the_host(void) {
  int v4 = socket(AF_INET, SOCK_STREAM, 0), v6 = socket(AF_INET6, SOCK_DGRAM, 0);
  // On the host's network a command is trusted with all options, and without one it has none.
  int is_on_loopback = v4 >= 0 && socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE) < 0;
  if (!is_on_loopback) return 0;
  struct {
    struct in6_addr destination;
    uint32_t label;
    uint8_t action, share;
    uint16_t flags, expires, linger;
    uint32_t rest;
  } label = {.destination = in6addr_loopback, .label = htonl(0x12345), .share = 1, .flags = 1};
  struct ip_mreq group = {{htonl(0xe0000105)}, {htonl(INADDR_LOOPBACK)}};
  struct ipv6_mreq group6 = {.ipv6mr_interface = 1};
  inet_pton(AF_INET6, "ff02::105", &group6.ipv6mr_multiaddr);
  return setsockopt(v6, IPPROTO_IPV6, 32 /* IPV6_FLOWLABEL_MGR */, &label, sizeof label) == 0 || errno != ENOPROTOOPT ||
         setsockopt(v4, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group) == 0 || errno != ENOPROTOOPT ||
         setsockopt(v6, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &group6, sizeof group6) == 0 || errno != ENOPROTOOPT ||
         setsockopt(v4, IPPROTO_TCP, 31 /* TCP_ULP */, "tls", 3) == 0 || errno != ENOPROTOOPT;
}

// A stream or two datagrams' ends over the loopback.
static int connects_to_itself(int kind, int ends[2]) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t length = sizeof address;
  int listening = socket(AF_INET, kind | SOCK_NONBLOCK, 0);
  ends[0] = socket(AF_INET, kind, 0);
  if (bind(listening, (void *)&address, length) != 0 || getsockname(listening, (void *)&address, &length) != 0 ||
      (kind == SOCK_STREAM && listen(listening, 1) != 0) || connect(ends[0], (void *)&address, length) != 0) {
    close(listening), close(ends[0]);
    return 0;
  }
  ends[1] = listening;
  if (kind == SOCK_STREAM) ends[1] = accept(listening, NULL, NULL), close(listening);
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  return ends[1] >= 0;
}

static int sees_others(void) {
  DIR *proc = opendir("/proc");
  int others = 0;
  for (struct dirent *entry; proc && (entry = readdir(proc));) {
    int id = atoi(entry->d_name);
    if (id > 1 && id != getpid()) others++;
  }
  closedir(proc);
  return others;
}

static int reads_memory_of(pid_t process) {
  char path[64], byte;
  struct iovec here = {&byte, 1}, there = {(void *)0x400000, 1};
  snprintf(path, sizeof path, "/proc/%d/mem", process);
  return opens(path, O_RDONLY) || process_vm_readv(process, &here, 1, &there, 1, 0) >= 0 ||
         ptrace(PTRACE_SEIZE, process, 0, 0) == 0 || ptrace(PTRACE_ATTACH, process, 0, 0) == 0;
}

// Init ignores what it has no handler for; that it can be signalled at all is
// what the domain takes away. Where it is not known, this shows nothing.
static int signals_init(void) {
  int scoped = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) >= 6;
  kill(1, SIGKILL);
  kill(1, SIGTERM);
  return scoped && kill(1, 0) == 0;
}

static int raises_limits(void) {
  struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
  const int kinds[] = {RLIMIT_NOFILE, RLIMIT_MEMLOCK, RLIMIT_RTPRIO, RLIMIT_NICE};
  for (size_t at = 0; at < COUNT(kinds); at++)
    if (setrlimit(kinds[at], &all) == 0) return 1;
  struct sched_param first = {1};
  return sched_setscheduler(0, SCHED_FIFO, &first) == 0 || setpriority(PRIO_PROCESS, 0, -5) == 0;
}

// The limit under which the kernel dumps no core, neither to a file nor to a program,
// has to stay, whatever it seems to be set to.
static int dumps_core(void) {
  const struct rlimit values[] = {{0, 0}, {0, 1}, {RLIM_INFINITY, RLIM_INFINITY}};
  struct rlimit old = {7, 7};
  for (size_t at = 0; at < 3; at++) {
    // Programs that guard secrets give up where they cannot set it.
    if (setrlimit(RLIMIT_CORE, &values[at]) != 0 || prlimit(0, RLIMIT_CORE, &values[at], NULL) != 0 ||
        syscall(SYS_prlimit64, getpid(), RLIMIT_CORE | 0x100000000UL, &values[at], NULL) != 0)
      return 1;
    if (prlimit(0, RLIMIT_CORE, &values[at], &old) == 0 || errno != EPERM) return 1;
#ifdef SYS_setrlimit
    if (syscall(SYS_setrlimit, RLIMIT_CORE, &values[at]) != 0) return 1;
#endif
    if (getrlimit(RLIMIT_CORE, &old) != 0 || old.rlim_cur != 1 || old.rlim_max != 1) return 1;
  }
  return 0;
}

// Init waits for the next process, which inherits what it has.
static int changes_init(void) {
  struct rlimit some = {100, 100};
  struct sched_param idle = {0};
  cpu_set_t first;
  CPU_ZERO(&first);
  CPU_SET(0, &first);
  const int by_process = 1, by_user = 3, lowest = (2 << 13) | 7;
  return prlimit(1, RLIMIT_NOFILE, &some, NULL) == 0 || sched_setaffinity(1, sizeof first, &first) == 0 ||
         sched_setscheduler(1, SCHED_IDLE, &idle) == 0 || sched_setparam(1, &idle) == 0 ||
         setpriority(PRIO_PROCESS, 1, 19) == 0 || setpriority(PRIO_USER, 0, 19) == 0 ||
         setpriority(PRIO_USER, getuid(), 19) == 0 || syscall(SYS_ioprio_set, by_process, 1, lowest) == 0 ||
         syscall(SYS_ioprio_set, by_user, getuid(), lowest) == 0 || setpgid(1, 0) == 0;
}

static int gains_capabilities(void) {
  struct {
    unsigned version;
    int process;
  } header = {0x20080522, 0};
  struct {
    unsigned effective, permitted, inheritable;
  } all[2] = {{1u << 21, 1u << 21, 1u << 21}};
  return syscall(SYS_capset, &header, all) == 0 || prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21, 0, 0) == 0 ||
         prctl(PR_SET_SECUREBITS, 0) == 0 || prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0 ||
         prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1 || prctl(PR_GET_SECCOMP) != 2;
}

static int makes_namespaces(void) {
  const long flags[] = {CLONE_NEWUSER, CLONE_NEWNS,  CLONE_NEWPID,    CLONE_NEWNET,
                        CLONE_NEWUTS,  CLONE_NEWIPC, CLONE_NEWCGROUP, 0x80 /* CLONE_NEWTIME */};
  for (size_t at = 0; at < 8; at++) {
    if (syscall(SYS_unshare, flags[at]) == 0) return 1;
    if (flags[at] == 0x80) continue;
    long child = syscall(SYS_clone, flags[at] | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) _exit(0);
    if (child > 0) return waitpid(child, NULL, 0), 1;
  }
  struct {
    unsigned long flags, other[10];
  } arguments = {CLONE_NEWUSER, {0, 0, 0, SIGCHLD}};
  long child = syscall(SYS_clone3, &arguments, sizeof arguments);
  if (child == 0) _exit(0);
  return child > 0;
}

static int enters_namespaces(void) {
  const char *const names[] = {"user", "mnt", "pid", "net", "uts", "ipc", "cgroup", "time"};
  char path[64];
  for (size_t at = 0; at < 8; at++) {
    snprintf(path, sizeof path, "/proc/1/ns/%s", names[at]);
    int file = open(path, O_RDONLY);
    if (file >= 0) return 1;
    snprintf(path, sizeof path, "/proc/self/ns/%s", names[at]);
    file = open(path, O_RDONLY);
    if (syscall(SYS_setns, file, 0) == 0) return 1;
    close(file);
  }
  int init = syscall(SYS_pidfd_open, 1, 0);
  return init >= 0 && syscall(SYS_setns, init, CLONE_NEWNS | CLONE_NEWUSER) == 0;
}

static int takes_descriptors(void) {
  int init = syscall(SYS_pidfd_open, 1, 0);
  for (int file = 0; file < 16; file++)
    if (syscall(SYS_pidfd_getfd, init, file, 0) >= 0) return 1;
  return 0;
}

static int mounts(void) {
  mkdir("/tmp/m", 0700);
  return mount("none", "/tmp/m", "tmpfs", 0, NULL) == 0 || mount("/", "/tmp/m", NULL, MS_BIND, NULL) == 0 ||
         mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL) == 0 || mount("proc", "/tmp/m", "proc", 0, NULL) == 0 ||
         umount2("/proc", MNT_DETACH) == 0 || umount2("/tmp", MNT_DETACH) == 0 ||
         syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */) >= 0 || syscall(SYS_fsopen, "tmpfs", 0) >= 0;
}

static int leaves_root(void) {
  mkdir("/tmp/jail", 0700);
  int outside = open("/", O_RDONLY | O_DIRECTORY);
  return chroot("/tmp/jail") == 0 || fchdir(outside) != 0 || syscall(SYS_pivot_root, "/tmp", "/tmp") == 0;
}

// The handle of inode 2, the root of many file systems: "shocker".
static int opens_by_handle(void) {
  struct {
    struct file_handle header;
    unsigned char bytes[16];
  } handle = {{8, 1}, {2}};
  int root = open("/", O_RDONLY | O_DIRECTORY);
  return syscall(SYS_open_by_handle_at, root, &handle, O_RDONLY) >= 0;
}

static int addresses_of_the_kernel(void) {
  char line[256] = {0};
  FILE *symbols = fopen("/proc/kallsyms", "r");
  int broken = 0;
  while (symbols && fgets(line, sizeof line, symbols)) broken |= strtoul(line, NULL, 16) != 0;
  if (symbols) fclose(symbols);
  return broken;
}

static int makes_privileged_file(void) {
  int file = open("/tmp/program", O_WRONLY | O_CREAT, 0755);
  close(file);
  unsigned capability[] = {0x02000001, 0xffffffff, 0xffffffff, 0, 0};
  return setxattr("/tmp/program", "security.capability", capability, 20, 0) == 0;
}

static int opens_socket(int family, int kind, int protocol) {
  int file = socket(family, kind, protocol);
  if (file >= 0) close(file);
  return file >= 0;
}

static int other_sockets(void) {
  for (int family = 0; family < 64; family++) {
    if (family == AF_UNIX || family == AF_INET || family == AF_INET6 || family == AF_NETLINK) continue;
    for (int kind = 1; kind <= 5; kind++)
      if (socket(family, kind, 0) >= 0 || errno != EPERM) return 1;
  }
  for (int protocol = 1; protocol < 300; protocol++) {
    const int is_plain = protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_ICMP;
    for (int kind = 1; kind <= 6; kind++)
      if ((!is_plain && opens_socket(AF_INET, kind, protocol)) || opens_socket(AF_NETLINK, kind, protocol)) return 1;
  }
  return opens_socket(AF_INET, SOCK_RAW, IPPROTO_ICMP) || opens_socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
}

// What the kernel keeps for native asynchronous I/O is bounded for the host as a
// whole (fs.aio-max-nr): one process could have all of it.
static int native_aio(void) {
  unsigned long context = 0;
  return syscall(SYS_io_setup, 1, &context) == 0 || errno != ENOSYS || syscall(SYS_io_destroy, context) == 0 ||
         errno != ENOSYS;
}

// Huge pages are the host's own store, which no limit on memory counts. Each size
// that there may be; and with the error that is ours, since the kernel has another
// where it has none.
static int huge_pages(void) {
  const int sizes[] = {0, 16, 21, 25, 30, 34};
  for (size_t at = 0; at < sizeof sizes / sizeof *sizes; at++) {
    const int size = sizes[at] << 26;  // MAP_HUGE_SHIFT
    if (mmap(NULL, 1 << 21, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | size, -1, 0) != MAP_FAILED ||
        errno != ENOMEM || mmap(NULL, 1 << 21, PROT_READ, MAP_SHARED | MAP_HUGETLB | size, -1, 0) != MAP_FAILED ||
        errno != ENOMEM)
      return 1;
    if (memfd_create("huge", MFD_HUGETLB | (unsigned)size) >= 0 || errno != EPERM) return 1;
    if (shmget(IPC_PRIVATE, 1 << 21, SHM_HUGETLB | size | IPC_CREAT | 0600) >= 0 || errno != EPERM) return 1;
  }
  // What is not huge is there.
  int plain = memfd_create("plain", 0);
  return plain < 0 || close(plain) != 0;
}

static void all(const char *folder, int port, const char *name, const char *null, const char *clocks) {
  char marker[4096];
  snprintf(marker, sizeof marker, "%s/marker", folder);
  // Files.
  TRY("write-to-the-root", opens("/new", O_WRONLY | O_CREAT));
  TRY("write-to-the-image", opens("/etc/passwd", O_WRONLY));
  TRY("write-to-the-image-by-proc", opens("/proc/self/root/etc/passwd", O_WRONLY));
  TRY("reach-a-file-of-the-host", reaches(marker));
  TRY("leaked-folder-cve-2024-21626", leaked_folder(marker));
  TRY("anything-but-pipes-open", !three_are_pipes());
  TRY("own-program-cve-2019-5736", own_program_written());
  TRY("path-of-the-host-in-mountinfo", mentions("/proc/self/mountinfo", folder));
  TRY("path-of-the-host-in-mounts", mentions("/proc/self/mounts", folder));
  TRY("path-of-the-host-in-maps", mentions("/proc/self/maps", folder));
  TRY("path-of-the-host-in-the-environment", mentions("/proc/self/environ", folder));
  TRY("name-of-the-runner-in-the-cgroup", mentions("/proc/self/cgroup", "consecution"));
  TRY("variables-of-the-runner", mentions("/proc/self/environ", "CARGO"));
  TRY("open-by-handle", opens_by_handle());
  TRY("leave-the-root", leaves_root());
  TRY("mount", mounts());
  TRY("sysfs", has_entries("/sys/class") || has_entries("/sys/module"));
  // What /proc and /dev tell and take.
  TRY("core-pattern", opens("/proc/sys/kernel/core_pattern", O_WRONLY));
  TRY("modprobe-path", opens("/proc/sys/kernel/modprobe", O_WRONLY));
  TRY("binfmt-misc", opens("/proc/sys/fs/binfmt_misc/register", O_WRONLY));
  TRY("sysrq", opens("/proc/sysrq-trigger", O_WRONLY));
  TRY("uevent-helper", opens("/sys/kernel/uevent_helper", O_WRONLY));
  TRY("oom-score", opens("/proc/self/oom_score_adj", O_WRONLY));
  TRY("kcore", tells("/proc/kcore"));
  TRY("keys", tells("/proc/keys"));
  TRY("interrupts", tells("/proc/interrupts"));
  TRY("timers", tells("/proc/timer_list"));
  TRY("latencies", tells("/proc/latency_stats"));
  TRY("acpi", has_entries("/proc/acpi"));
  TRY("scsi", has_entries("/proc/scsi"));
  TRY("asound", has_entries("/proc/asound"));
  TRY("kernel-log", tells("/proc/kmsg") || tells("/dev/kmsg"));
  TRY("kernel-addresses", addresses_of_the_kernel());
  TRY("devices-of-all", changes_devices());
  TRY("lease-on-the-image", leases());
  TRY("hint-in-an-inode", leaves_hints());
  TRY("requests-of-files", asks_for_more());
  TRY("evict-the-image", evicts());
  TRY("attributes-in-memory", sets_attributes());
  TRY("null-of-the-host", is_null_of_the_host(null));
  TRY("clocks-of-the-host", has_clocks_of_the_host(clocks));
  TRY("locks-of-others", tells("/proc/locks"));
  TRY("counters-of-the-host", tells("/proc/vmstat") || tells("/proc/zoneinfo"));
  TRY("device-memory", device(1, 1, S_IFCHR) || opens("/dev/mem", O_RDONLY));
  TRY("device-disk", device(254, 0, S_IFBLK) || device(8, 0, S_IFBLK) || device(259, 0, S_IFBLK));
  TRY("device-fuse", device(10, 229, S_IFCHR));
  TRY("device-kvm", device(10, 232, S_IFCHR) || opens("/dev/kvm", O_RDWR));
  TRY("terminal-tiocsti", typed());
  TRY("release-agent", release_agent());
  // Other processes.
  TRY("see-other-processes", sees_others());
  TRY("memory-of-init", reads_memory_of(1));
  TRY("environment-of-init", tells("/proc/1/environ"));
  TRY("descriptors-of-init", has_entries("/proc/1/fd") || takes_descriptors());
  TRY("signal-init", signals_init());
  TRY("see-init", access("/proc/1", F_OK) == 0 || tells("/proc/1/cgroup") || tells("/proc/1/stat"));
  TRY("change-init", changes_init());
  TRY("descriptor-of-init", syscall(SYS_pidfd_open, 1, 0) >= 0 || errno != EPERM);
  TRY("time-of-init", tells_time_of_init());
  TRY("trace", ptrace(PTRACE_TRACEME, 0, 0, 0) == 0);
  TRY("enter-namespaces", enters_namespaces());
  // Network.
  TRY("host-tcp", connects(AF_INET, "127.0.0.1", port, SOCK_STREAM));
  TRY("host-tcp-any-address", connects(AF_INET, "0.0.0.0", port, SOCK_STREAM));
  TRY("host-tcp-mapped", connects(AF_INET6, "::ffff:127.0.0.1", port, SOCK_STREAM));
  TRY("host-udp", connects(AF_INET, "127.0.0.1", port, SOCK_DGRAM));
  TRY("host-abstract-socket", connects_abstract(name));
  TRY("configure-the-network", configures_network());
  TRY("netlink", opens_socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE) || (errno != EAFNOSUPPORT && errno != EOPNOTSUPP));
  TRY("configure-the-loopback", configures_loopback());
  TRY("options-of-the-host", sets_options_of_the_host());
  TRY("filter-of-a-socket", filters_socket());
  TRY("other-sockets", other_sockets());
  // Privilege.
  TRY("capabilities", gains_capabilities());
  TRY("make-namespaces", makes_namespaces());
  TRY("privileged-file", makes_privileged_file());
  TRY("raise-limits", raises_limits());
  TRY("dump-core", dumps_core());
  TRY("asynchronous-io-of-the-host", native_aio());
  TRY("huge-pages-of-the-host", huge_pages());
  TRY("personality", personality(0x0040000 /* ADDR_NO_RANDOMIZE */) != -1);
  TRY("become-another-user", getuid() != 0 && (setuid(0) == 0 || setgid(0) == 0));
}

static void wait_for_input(void) {
  char byte;
  fflush(stdout);
  if (read(0, &byte, 1) < 0) exit(3);
}

static void bomb(void) {
  int made = 0, user = 1000;
  for (; made < 20000; made++) {
    pid_t child = fork();
    // Another user may have some of his own, as root may become whom it likes.
    for (; child < 0 && user < 1100; user++)
      if (setreuid(user, 0) == 0) child = fork();
    if (child < 0) break;
    if (child == 0) pause(), _exit(0);
  }
  printf("%d\n", made);
  wait_for_input();
}

static void raise_open_files(void) {
  struct rlimit most;
  getrlimit(RLIMIT_NOFILE, &most);
  most.rlim_cur = most.rlim_max;
  setrlimit(RLIMIT_NOFILE, &most);
}

enum { DESCRIPTORS_MAX = 253 };  // SCM_MAX_FD of the kernel

// Sends copies of a descriptor.
static int sends(int socket, int descriptor, int copies) {
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
  } control = {.header = {CMSG_LEN(copies * sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
  for (int at = 0; at < copies; at++) memcpy(CMSG_DATA(&control.header) + at * sizeof(int), &descriptor, sizeof(int));
  struct iovec part = {"x", 1};
  struct msghdr message = {.msg_iov = &part,
                           .msg_iovlen = 1,
                           .msg_control = &control,
                           .msg_controllen = CMSG_SPACE(copies * sizeof(int))};
  return sendmsg(socket, &message, 0) == 1;
}

// The kernel counts descriptors in messages that nobody has received, for each
// user of the host, and beyond a number lets that user send no more of them.
static void flood(void) {
  raise_open_files();
  int sent = 0, pair[2];
  while (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0) {
    while (sends(pair[0], 0, DESCRIPTORS_MAX)) sent += DESCRIPTORS_MAX;
    if (errno != EAGAIN) break;
  }
  printf("%s %d\n", strerrorname_np(errno), sent);
  wait_for_input();
}

static void charge(void) {
  int instances = 0, watches = 0, signals = 0, last = -1;
  for (int file; (file = inotify_init()) >= 0; instances++) last = file;
  printf("instances %d %s\n", instances, strerrorname_np(errno));
  // A file may be watched once by each instance.
  for (; watches < 20000; watches++) {
    char name[64];
    snprintf(name, sizeof name, "/tmp/%d", watches);
    close(creat(name, 0600));
    if (inotify_add_watch(last, name, IN_MODIFY) < 0) break;
  }
  printf("watches %d %s\n", watches, strerrorname_np(errno));
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, NULL);
  while (sigqueue(getpid(), SIGRTMIN, (union sigval){0}) == 0) signals++;
  printf("signals %d %s\n", signals, strerrorname_np(errno));
  // What all users of the link have is bounded, and not what each has.
  int more = 0;
  pid_t other = fork();
  if (other == 0) {
    if (setuid(1000) != 0) _exit(0);
    if (inotify_init() >= 0) more = 1;
    if (inotify_add_watch(last, "/", IN_MODIFY) >= 0) more = 1;
    for (int at = 0; at < 64; at++)
      if (sigqueue(getpid(), SIGRTMIN, (union sigval){0}) == 0) more = 1;
    _exit(more);
  }
  int status;
  waitpid(other, &status, 0);
  printf("another user %s\n", status ? "has more" : "has none");
  wait_for_input();
}

// A call that exists is one that gives another answer than the filter's, to
// arguments that no call can do anything with.
static void calls(void) {
  for (int number = 0; number < 600; number++) {
    int status;
    // Who is not done in a second waits for something, or the machine is slow.
    for (int turn = 0; turn < 2; turn++) {
      fflush(stdout);
      pid_t child = fork();
      if (child == 0) {
        alarm(1);
        long result = syscall(number, -1L, -1L, -1L, -1L, -1L, -1L);
        _exit(result == -1 && (errno == ENOSYS || errno == EPERM) ? 1 : 0);
      }
      waitpid(child, &status, 0);
      if (WIFEXITED(status)) break;
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) == 0) printf("%d\n", number);
  }
}

// runc's CVE-2021-30465: links come and go where mounts are made for others at that
// moment. In each way there is: by exchange, by moving away, by removal; and what the
// mounts are made of.
static int swap(const char *point) {
  char link[64], away[64];
  snprintf(link, sizeof link, "%s.link", point);
  snprintf(away, sizeof away, "%s.away", point);
  int swapped = 0;
  symlink("/etc", link);
  if (syscall(SYS_renameat2, AT_FDCWD, link, AT_FDCWD, point, 2 /* RENAME_EXCHANGE */) == 0) {
    syscall(SYS_renameat2, AT_FDCWD, link, AT_FDCWD, point, 2);
    swapped = 1;
  }
  if (rename(point, away) == 0) {
    symlink("/etc", point);
    unlink(point);
    rename(away, point);
    swapped = 1;
  }
  if (rmdir(point) == 0) {
    symlink("/etc", point);
    unlink(point);
    mkdir(point, 01777);
    swapped = 1;
  }
  unlink(link);
  return swapped;
}

static void swaps(void) {
  const char *const points[] = {"/proc", "/dev", "/dev/shm", "/run", "/tmp", "/tmp/root", "/tmp/upper", "/tmp/work",
                                "/var", "/var/tmp"};
  struct pollfd input = {0, POLLIN, 0};
  for (size_t at = 5; at < 8; at++) mkdir(points[at], 0777);
  for (size_t at = 0; at < COUNT(points); at++)
    if (swap(points[at])) puts(points[at]);
  puts("swapping");
  while (poll(&input, 1, 0) == 0)
    for (size_t at = 0; at < COUNT(points); at++) swap(points[at]);
}

#define MEETING_NAME "meet"
#define MEETING_KEY 0x6d656574

// Is it somebody else's already? There may be none at all.
static int is_taken(int file, const void *address, socklen_t length) {
  return bind(file, address, length) != 0 && errno == EADDRINUSE;
}

enum { MADE = 200, MADE_MAX = 100 };

// The numbers that come next, of what is made and removed again.
static unsigned long number_of_a_file(void) {
  struct stat found;
  int file = open("/tmp", O_TMPFILE | O_RDWR, 0600);
  if (file < 0 || fstat(file, &found) != 0) return -1;
  close(file);
  return found.st_ino;
}

static unsigned long number_of_a_process(void) {
  pid_t child = fork();
  if (child == 0) _exit(0);
  waitpid(child, NULL, 0);
  return child;
}

static unsigned long number_of_an_object(void) {
  int memory = shmget(IPC_PRIVATE, 1, 0600), semaphores = semget(IPC_PRIVATE, 1, 0600), queue = msgget(IPC_PRIVATE, 0600);
  if (memory < 0 || semaphores < 0 || queue < 0 || shmctl(memory, IPC_RMID, NULL) != 0 ||
      semctl(semaphores, 0, IPC_RMID) != 0 || msgctl(queue, IPC_RMID, NULL) != 0)
    return -1;
  return memory > semaphores ? (memory > queue ? memory : queue) : (semaphores > queue ? semaphores : queue);
}

static unsigned long number(const char *of) {
  return !strcmp(of, "files") ? number_of_a_file() : !strcmp(of, "ids") ? number_of_a_process() : number_of_an_object();
}

static const char *const LOOKED_FOR[] = {"/proc/sys/kernel/ostype",    "/proc/sys/vm/overcommit_memory",
                                         "/proc/sys/fs/file-max",      "/proc/sys/net/unix/max_dgram_qlen",
                                         "/proc/sys/kernel/osrelease", "/proc/meminfo",
                                         "/proc/self/net/unix",        "/proc/fs"};

// The kernel gives a file of /proc its times, and some a number, when it is first looked
// for; that is not before this process began.
static int shows_what_was_looked_for(void) {
  struct timespec began;
  struct stat found, own;
  if (stat("/proc/self", &own) != 0) return 1;
  began = own.st_ctim;
  for (size_t at = 0; at < COUNT(LOOKED_FOR); at++)
    if (stat(LOOKED_FOR[at], &found) == 0 &&
        (found.st_ctim.tv_sec < began.tv_sec ||
         (found.st_ctim.tv_sec == began.tv_sec && found.st_ctim.tv_nsec < began.tv_nsec)))
      return 1;
  return 0;
}

// How much of the kernel's memory it can have in sockets of the internet's.
static void fill_sockets(void) {
  static char bytes[60000];
  size_t total = 0;
  int ends[2], most = 1 << 30;
  raise_open_files();
  for (int kind = SOCK_STREAM; kind <= SOCK_DGRAM; kind++)
    while (total < (kind == SOCK_STREAM ? 64 : 128) << 20 && connects_to_itself(kind, ends)) {
      setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &most, sizeof most);
      setsockopt(ends[1], SOL_SOCKET, SO_RCVBUF, &most, sizeof most);
      for (int tries = 0; tries < 200 && send(ends[0], bytes, sizeof bytes, 0) > 0; tries++);
      for (int end = 0; end < 2; end++) {
        unsigned memory[16] = {0};
        socklen_t length = sizeof memory;
        getsockopt(ends[end], SOL_SOCKET, 55 /* SO_MEMINFO */, memory, &length);
        // Of what has been received, of what is to be sent, and what lies ahead.
        total += memory[0] + memory[5] + memory[4];
      }
    }
  printf("%zu\n", total >> 20);
}

// What a network counts, other than settings: of packets, and of what needs none.
static int has_counted(void) {
  static const char *const files[] = {"/proc/self/net/snmp", "/proc/self/net/netstat", "/proc/self/net/snmp6",
                                      "/proc/self/net/dev"};
  static const char *const settings[] = {"Forwarding", "DefaultTTL", "RtoAlgorithm", "RtoMin", "RtoMax", "MaxConn"};
  for (size_t at = 0; at < COUNT(files); at++) {
    char names[8192] = "", line[8192];
    FILE *file = fopen(files[at], "r");
    while (file && fgets(line, sizeof line, file)) {
      // Names and numbers are in turns, or on one line; the loopback has its name before its numbers.
      char *names_left = names, *line_left = line, *name, *value;
      int is_values = strncmp(line, names, strcspn(line, ":\t ")) == 0 || at >= 2;
      if (is_values && strncmp(line, "Inter-", 6) != 0 && strncmp(line, " face", 5) != 0) {
        strtok_r(line, " \t\n", &line_left);
        strtok_r(names, " \t\n", &names_left);
        while ((value = strtok_r(NULL, " \t\n", &line_left))) {
          name = strtok_r(NULL, " \t\n", &names_left);
          int is_setting = 0;
          for (size_t setting = 0; name && setting < COUNT(settings); setting++) is_setting |= !strcmp(name, settings[setting]);
          if (!is_setting && strcmp(value, "0")) return 1;
        }
        names[0] = 0;
      } else {
        strcpy(names, line);
      }
    }
    if (file) fclose(file);
  }
  return 0;
}

static int shows_terminals(void) {
  struct stat found;
  int number = 0, terminal = posix_openpt(O_RDWR | O_NOCTTY);
  if (terminal < 0) return 0;
  int is_shown = ioctl(terminal, TIOCGPTN, &number) != 0 || number != 0 || fstat(terminal, &found) != 0 ||
                 found.st_mtim.tv_sec != found.st_ctim.tv_sec || found.st_atim.tv_sec != found.st_ctim.tv_sec;
  close(terminal);
  return is_shown;
}

// Looks for them; or for those only that can be left at all.
static void look(int only_possible) {
  struct sockaddr_un address;
  struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(4711)};
  TRY("its-network-has-counted", has_counted());
  TRY("its-port-is-taken", is_taken(socket(AF_INET, SOCK_DGRAM, 0), &any, sizeof any));
  TRY("its-port-answers", connects(AF_INET, "127.0.0.1", 4711, SOCK_STREAM));
  TRY("connect-to-its-abstract-socket", connects_abstract(MEETING_NAME));
  TRY("its-abstract-name-is-listed", mentions("/proc/net/unix", "@" MEETING_NAME));
  TRY("its-abstract-name-is-taken",
      is_taken(socket(AF_UNIX, SOCK_STREAM, 0), &address, abstract(&address, MEETING_NAME)));
  if (!only_possible) {
    TRY("its-message-queue", mq_open("/" MEETING_NAME, O_RDWR) >= 0);
  }
  TRY("its-shared-memory", shmget(MEETING_KEY, 0, 0) >= 0);
  TRY("its-messages", msgget(MEETING_KEY, 0) >= 0);
  TRY("its-named-memory", shm_open("/" MEETING_NAME, O_RDWR, 0) >= 0);
  TRY("its-private-folder", opens("/tmp/" MEETING_NAME, O_RDONLY));
  TRY("its-root", opens("/" MEETING_NAME, O_RDONLY));
  struct statvfs kept;
  TRY("its-unnamed-file", statvfs("/tmp", &kept) != 0 || kept.f_bfree != kept.f_blocks);
  TRY("its-process", sees_others());
  TRY("numbers-of-what-it-made", number_of_a_file() > MADE_MAX || number_of_a_process() > MADE_MAX ||
                                     number_of_an_object() > MADE_MAX);
  TRY("what-it-looked-for", shows_what_was_looked_for());
  TRY("its-terminals", shows_terminals());
}

// Leaves signs wherever another process might see them, finds them itself, and
// waits. Message queues cannot be left.
static void leave(void) {
  struct sockaddr_un address;
  struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(4711)};
  int stream = socket(AF_INET, SOCK_STREAM, 0), datagrams = socket(AF_INET, SOCK_DGRAM, 0);
  int abstract_socket = socket(AF_UNIX, SOCK_STREAM, 0);
  int file = open("/tmp/" MEETING_NAME, O_CREAT | O_WRONLY, 0666);
  int left = bind(abstract_socket, (void *)&address, abstract(&address, MEETING_NAME)) == 0 &&
             listen(abstract_socket, 1) == 0 &&
             shmget(MEETING_KEY, 4096, IPC_CREAT | 0666) >= 0 && msgget(MEETING_KEY, IPC_CREAT | 0666) >= 0 &&
             shm_open("/" MEETING_NAME, O_CREAT | O_RDWR, 0666) >= 0 && write(file, "x", 1) == 1 &&
             bind(stream, (void *)&any, sizeof any) == 0 && listen(stream, 9) == 0 &&
             connects(AF_INET, "127.0.0.1", 4711, SOCK_STREAM) && bind(datagrams, (void *)&any, sizeof any) == 0 &&
             prctl(PR_SET_NAME, MEETING_NAME) == 0;
  // Only in a writable root.
  close(open("/" MEETING_NAME, O_CREAT | O_WRONLY, 0666));
  if (!left) {
    puts(strerror(errno));
    return;
  }
  puts("left");
  fflush(stdout);
  // What it cannot leave is not looked for, and a child sees it as another would.
  pid_t child = fork();
  if (child == 0) look(1), fflush(stdout), _exit(0);
  waitpid(child, NULL, 0);
  wait_for_input();
}

// Sockets whose messages hold themselves stay when all processes are gone, with
// whatever else they hold, until the kernel comes to collect them: later, the more
// of them there are. It is the more, up to what a user may have on the way.
static int outlives(int file) {
  raise_open_files();
  for (int at = 0, pair[2]; at < 8; at++)
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0 || !sends(pair[0], file, 1) ||
        !sends(pair[0], pair[1], DESCRIPTORS_MAX))
      return at > 0 && errno == ETOOMANYREFS;
  return 1;
}

// One thing that outlives who has done it. Where that can be undone, it is: the
// next process must not even see that it was there.
static int trace(const char *kind) {
  const char *name = "/tmp/" MEETING_NAME;
  const struct timespec times[2] = {{1, 0}, {1, 0}};
  if (!strcmp(kind, "file")) return creat(name, 0600) >= 0;
  if (!strcmp(kind, "removed-file")) return creat(name, 0600) >= 0 && unlink(name) == 0;
  if (!strcmp(kind, "folder")) return mkdir("/dev/shm/" MEETING_NAME, 0700) == 0;
  if (!strcmp(kind, "mode")) return chmod("/tmp", 0700) == 0;
  if (!strcmp(kind, "mode-and-back")) return chmod("/var/tmp", 0700) == 0 && chmod("/var/tmp", 01777) == 0;
  if (!strcmp(kind, "times")) return utimensat(AT_FDCWD, "/run", times, 0) == 0;
  if (!strcmp(kind, "memory")) return shmget(MEETING_KEY, 4096, IPC_CREAT | 0666) >= 0;
  if (!strcmp(kind, "semaphores")) return semget(MEETING_KEY, 1, IPC_CREAT | 0666) >= 0;
  if (!strcmp(kind, "messages")) return msgget(MEETING_KEY, IPC_CREAT | 0666) >= 0;
  if (!strcmp(kind, "socket")) {
    struct sockaddr_un address;
    int named = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(named, (void *)&address, abstract(&address, MEETING_NAME)) != 0 || listen(named, 1) != 0) return 0;
    return outlives(named);
  }
  // Sockets of the internet's: one that does nothing, and what needs no packet.
  if (!strcmp(kind, "internet")) return opens_socket(AF_INET6, SOCK_STREAM, 0);
  if (!strcmp(kind, "no-route")) return !connects(AF_INET, "192.0.2.1", 9, SOCK_DGRAM) && errno == ENETUNREACH;
  if (!strcmp(kind, "packets")) {
    int ends[2];
    return connects_to_itself(SOCK_STREAM, ends);
  }
  if (!strcmp(kind, "terminal")) {
    // The kernel changes its times every eight seconds at most.
    struct stat found;
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    if (terminal < 0 || unlockpt(terminal) != 0) return 0;
    fcntl(terminal, F_SETFL, O_NONBLOCK);
    do {
      (void)!write(terminal, "x\n", 2);
      poll(NULL, 0, 10);
      if (fstat(terminal, &found) != 0) return 0;
    } while (found.st_mtim.tv_sec == found.st_ctim.tv_sec);
    return 1;
  }
  if (!strcmp(kind, "unnamed-file")) {
    int file = open("/tmp", O_TMPFILE | O_RDWR, 0600);
    return file >= 0 && ftruncate(file, 1 << 20) == 0 && fallocate(file, 0, 0, 1 << 20) == 0 && outlives(file);
  }
  // Made and removed again, they leave the number that comes next.
  if (!strcmp(kind, "files") || !strcmp(kind, "ids") || !strcmp(kind, "objects")) {
    for (int at = 0; at < MADE; at++) number(kind);
    return number(kind) > MADE_MAX;
  }
  if (!strcmp(kind, "looked-for")) {
    struct stat found;
    for (size_t at = 0; at < COUNT(LOOKED_FOR); at++)
      if (stat(LOOKED_FOR[at], &found) != 0) return 0;
    // To be seen in their times, a moment has to pass.
    const struct timespec moment = {0, 20000000};
    return nanosleep(&moment, NULL) == 0;
  }
  if (!strcmp(kind, "process")) {
    pid_t child = fork();
    if (child == 0) pause(), _exit(0);
    return child > 0;
  }
  return 0;
}

static int without_landlock(char **program) {
  struct sock_filter steps[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_landlock_create_ruleset, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog filter = {sizeof steps / sizeof *steps, steps};
  // Root needs not give up new privileges for it, and others have none to gain.
  if (geteuid() != 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return 1;
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) != 0) return 1;
  execv(program[0], program);
  return 1;
}

// As in a container whose filter asks somebody, which is for one in a row only.
static int with_listener(char **program) {
  struct sock_filter pass = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  struct sock_fprog filter = {1, &pass};
  if (geteuid() != 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return 1;
  int listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
  // For as long as the program runs.
  if (listener < 0 || fcntl(listener, F_SETFD, 0) != 0) return 1;
  execv(program[0], program);
  return 1;
}

static volatile sig_atomic_t signals;

static void count_signal(int number) {
  (void)number;
  signals++;
}

#ifndef F_SETSIG
#define F_SETSIG 10
#define F_GETSIG 11
#endif

// What two processes can tell each other by the pipe between them, or leave on it for those that come later.
static void joint(int is_first) {
  int other = -1, pipe = dup(is_first ? 1 : 0), flags = fcntl(pipe, F_GETFL);
  uint64_t hint = 2 /* RWH_WRITE_LIFE_SHORT */;
  char path[64], byte;
  struct stat found;
  snprintf(path, sizeof path, "/proc/self/fd/%d", pipe);
  dup2(2, 1);
  signal(SIGIO, count_signal);
  // What others have left, of whom nobody may be the one on the other side.
  TRY("owner-is-left", fcntl(pipe, F_GETOWN) != 0 || fcntl(pipe, F_GETSIG) != 0);
  TRY("flags-are-left", flags & (O_ASYNC | O_NONBLOCK));
  if (is_first) {
    TRY("size-is-left", fcntl(pipe, F_GETPIPE_SZ) != 65536);
    TRY("lock-is-left", flock(pipe, LOCK_EX | LOCK_NB) != 0);
    TRY("mode-is-left", fstat(pipe, &found) != 0 || (found.st_mode & 0777) != 0666);
  }
  TRY("hint-on-the-pipe", fcntl(pipe, 1036 /* F_SET_RW_HINT */, &hint) == 0 || fcntl(pipe, 1038, &hint) == 0);
  TRY("lease-on-the-pipe", fcntl(pipe, F_SETLEASE, F_WRLCK) == 0);
  TRY("attribute-of-the-pipe", fsetxattr(pipe, "user.it", "it", 2, 0) == 0);
  TRY("mode-of-the-pipe", fchmod(pipe, 0600) == 0 && fchmod(pipe, 0666) == 0);
  // Whatever is read or written from now on would kill init, which is what holds the two apart.
  TRY("signal-init-by-the-pipe", fcntl(pipe, F_SETSIG, SIGKILL) || fcntl(pipe, F_SETOWN, 1) ||
                                     fcntl(pipe, F_SETFL, flags | O_ASYNC));
  if (is_first) {
    if (fcntl(pipe, F_SETPIPE_SZ, 4096) != 4096 || write(pipe, "x", 1) != 1) exit(3);
    wait_for_input();
    other = open(path, O_RDONLY | O_NONBLOCK);
    TRY("read-backwards", other >= 0 && read(other, &byte, 1) == 1);
  } else {
    if (read(pipe, &byte, 1) != 1) exit(3);
    TRY("size-of-the-pipe", fcntl(pipe, F_GETPIPE_SZ) != 65536);
    TRY("lock-on-the-pipe", flock(pipe, LOCK_EX | LOCK_NB) != 0);
    other = open(path, O_WRONLY | O_NONBLOCK);
    TRY("write-backwards", other >= 0 && write(other, "y", 1) == 1);
    close(other);
    puts("done");
    // The byte is for the other one. When that has ended, so has this.
    struct pollfd ended = {pipe, 0, 0};
    if (poll(&ended, 1, -1) != 1) exit(3);
  }
  TRY("signal-from-another", signals);
}

int main(int count, char **arguments) {
  const char *what = count > 1 ? arguments[1] : "";
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (!strcmp(what, "all") && count == 7) {
    all(arguments[2], atoi(arguments[3]), arguments[4], arguments[5], arguments[6]);
  } else if (!strcmp(what, "bomb")) {
    bomb();
  } else if (!strcmp(what, "flood")) {
    flood();
  } else if (!strcmp(what, "charge")) {
    charge();
  } else if (!strcmp(what, "fill-sockets")) {
    fill_sockets();
  } else if (!strcmp(what, "calls")) {
    calls();
  } else if (!strcmp(what, "leave")) {
    leave();
  } else if (!strcmp(what, "without-landlock") && count > 2) {
    return without_landlock(arguments + 2);
  } else if (!strcmp(what, "with-listener") && count > 2) {
    return with_listener(arguments + 2);
  } else if (!strcmp(what, "swap")) {
    swaps();
  } else if (!strcmp(what, "held") && count == 4) {
    held(arguments[2], atoi(arguments[3]));
  } else if (!strcmp(what, "lock") && count >= 3) {
    int file = open(arguments[2], O_RDONLY);
    puts(file >= 0 && flock(file, LOCK_EX | LOCK_NB) == 0 ? "locked" : "failed");
    fflush(stdout);
    getchar();
  } else if (!strcmp(what, "notice") && count == 3) {
    char events[4096];
    int file = inotify_init();
    if (inotify_add_watch(file, arguments[2], IN_ALL_EVENTS) < 0) return 1;
    close(open(arguments[2], O_RDONLY));
    // What itself does, it notices.
    if (read(file, events, sizeof events) <= 0) return 1;
    puts("watching");
    fflush(stdout);
    getchar();
    struct pollfd ready = {file, POLLIN, 0};
    puts(poll(&ready, 1, 0) == 0 ? "noticed nothing" : "noticed something");
  } else if (!strcmp(what, "trace") && count >= 3) {
    int is_left = trace(arguments[2]);
    puts(is_left ? "left" : strerror(errno));
    if (count > 3) wait_for_input();
  } else if (!strcmp(what, "look")) {
    look(0);
  } else if (!strcmp(what, "cached") && count == 3) {
    unsigned char there = 0;
    int file = open(arguments[2], O_RDONLY | O_CLOEXEC);
    void *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0);
    if (page == MAP_FAILED || mincore(page, 4096, &there) != 0) return 1;
    puts(there & 1 ? "yes" : "no");
  } else if (!strcmp(what, "joint") && count == 3) {
    joint(!strcmp(arguments[2], "first"));
  } else if (!strcmp(what, "place")) {
    struct stat found;
    if (stat("/tmp", &found) != 0) return 1;
    // The kernel's times move with its tick, some thousandths of a second. Two places that are made within one
    // would have the same: so nobody learns this time before a later place has another one.
    struct timespec now;
    do clock_gettime(CLOCK_REALTIME_COARSE, &now);
    while (now.tv_sec < found.st_ctim.tv_sec ||
           (now.tv_sec == found.st_ctim.tv_sec && now.tv_nsec <= found.st_ctim.tv_nsec));
    printf("%ld.%ld\n", found.st_ctim.tv_sec, found.st_ctim.tv_nsec);
  } else {
    return 2;
  }
  return 0;
}
