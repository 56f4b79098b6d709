#include "common/runtime/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <optional>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "common/runtime/posix_file_system.h"
#include "common/status/status_macros.h"

extern char** environ;

namespace strata::runtime {
namespace {

constexpr int kPollMilliseconds = 200;
constexpr absl::Duration kGrace = absl::Seconds(10);  // between SIGTERM and SIGKILL
constexpr size_t kLongestLine = size_t{16} << 20;     // longer ones arrive in pieces

absl::Duration MonotonicNow() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return absl::DurationFromTimespec(now);
}

std::string ErrorText(int error) { return std::generic_category().message(error); }

sigset_t EndSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

// Starts the program in a process group of its own, with the signals that this process blocks or ignores set back.
absl::StatusOr<pid_t> Spawn(const Command& command, int output) {
  std::vector<char*> argv;
  for (const std::string& word : command.argv)
    argv.push_back(const_cast<char*>(word.c_str()));  // as posix_spawn wants it
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigset_t defaults = EndSignals();
  sigemptyset(&none);
  sigaddset(&defaults, SIGPIPE);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  pid_t pid = 0;
  const int error = posix_spawnp(&pid, argv[0], &actions, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error == 0) return pid;
  const std::string text = absl::StrCat("cannot start ", command.argv[0], ": ", ErrorText(error));
  if (error == ENOENT) return absl::NotFoundError(text);
  if (error == EACCES) return absl::PermissionDeniedError(text);
  return absl::InternalError(text);
}

// Reads the child's output and ends the child when its lines are no longer wanted.
class Listener {
 public:
  Listener(const Command& command, pid_t pid, int input) : command_(command), pid_(pid), input_(input) {}

  void ReadToEnd() {
    std::array<char, 65536> buffer;
    while (true) {
      PollStop();
      pollfd waiting = {.fd = input_, .events = POLLIN, .revents = 0};
      if (poll(&waiting, 1, kPollMilliseconds) <= 0) {
        // A grandchild may hold the pipe open after the program has ended.
        if (HasEnded()) return;
        continue;
      }
      const ssize_t got = read(input_, buffer.data(), buffer.size());
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) break;
      Feed({buffer.data(), static_cast<size_t>(got)});
    }
    if (!pending_.empty()) Deliver(pending_);
  }

  // After ReadToEnd: the program may have closed its output and gone on.
  int Wait() {
    while (!HasEnded()) {
      PollStop();
      poll(nullptr, 0, 20);
    }
    return *status_;
  }

  bool stopped() const { return stop_time_.has_value(); }
  // Whether a signal ended it that this did not send.
  bool EndedByAnother() const {
    const int signal = WIFSIGNALED(*status_) ? WTERMSIG(*status_) : 0;
    return signal != 0 && !(stopped() && (signal == SIGTERM || (signal == SIGKILL && forced_)));
  }

 private:
  void Feed(std::string_view text) {
    while (!text.empty()) {
      const size_t end = text.find('\n');
      pending_.append(text.substr(0, end));
      if (end == std::string_view::npos) {
        if (pending_.size() > kLongestLine) Flush();
        return;
      }
      Flush();
      text.remove_prefix(end + 1);
    }
  }

  void Flush() {
    Deliver(pending_);
    pending_.clear();
  }

  void Deliver(std::string_view line) {
    if (stopped() || !command_.on_line) return;
    if (!command_.on_line(line)) Stop();
  }

  void Stop() {
    stop_time_ = MonotonicNow();
    kill(-pid_, SIGTERM);
  }

  void PollStop() {
    if (!stopped() && command_.keep_going && !command_.keep_going() && !HasEnded()) Stop();
    if (!stopped() || MonotonicNow() - *stop_time_ <= kGrace) return;
    forced_ = true;
    kill(-pid_, SIGKILL);
  }

  bool HasEnded() {
    if (status_.has_value()) return true;
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) == pid_) status_ = status;
    return status_.has_value();
  }

  const Command& command_;
  pid_t pid_;
  int input_;
  std::string pending_;
  std::optional<absl::Duration> stop_time_;
  bool forced_ = false;
  std::optional<int> status_;
};

// A number of kB from a line of /proc/self/status.
uint64_t StatusField(absl::string_view name) {
  PosixFileSystem files;
  const auto text = files.ReadFile("/proc/self/status");
  if (!text.ok()) return 0;
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    if (!absl::ConsumePrefix(&line, name)) continue;
    absl::ConsumeSuffix(&line, "kB");
    uint64_t kilobytes = 0;
    if (absl::SimpleAtoi(line, &kilobytes)) return kilobytes * 1024;
  }
  return 0;
}

}  // namespace

absl::StatusOr<int> RunCommand(const Command& command) {
  if (command.argv.empty()) return absl::InvalidArgumentError("expected a program to run, found an empty command");
  std::array<int, 2> pipe_ends = {-1, -1};
  if (pipe2(pipe_ends.data(), O_CLOEXEC) != 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot make a pipe for ", command.argv[0], ": ", ErrorText(errno)));
  }
  const absl::StatusOr<pid_t> pid = Spawn(command, pipe_ends[1]);
  close(pipe_ends[1]);
  if (!pid.ok()) {
    close(pipe_ends[0]);
    return pid.status();
  }
  Listener listener(command, *pid, pipe_ends[0]);
  listener.ReadToEnd();
  close(pipe_ends[0]);
  const int status = listener.Wait();
  if (listener.EndedByAnother()) {
    return absl::AbortedError(absl::StrCat(command.argv[0], " was ended by signal ", WTERMSIG(status), " (",
                                           sigdescr_np(WTERMSIG(status)), ")"));
  }
  if (listener.stopped()) return absl::CancelledError(absl::StrCat(command.argv[0], " was stopped on request"));
  return WEXITSTATUS(status);
}

void BlockSignals() {
  const sigset_t set = EndSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &ignore, nullptr);
  sigaction(SIGXFSZ, &ignore, nullptr);
}

int WaitForSignal() {
  const sigset_t set = EndSignals();
  int signal = 0;
  while (sigwait(&set, &signal) != 0) {
  }
  return signal;
}

void Interrupt() { kill(getpid(), SIGTERM); }

bool SurvivesInChild(const std::function<void()>& work) {
  const pid_t child = fork();
  if (child < 0) return false;
  if (child == 0) {
    const rlimit no_core{};
    setrlimit(RLIMIT_CORE, &no_core);
    work();
    _exit(0);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

uint64_t PeakResidentBytes() { return StatusField("VmHWM:"); }

uint64_t ResidentBytes() { return StatusField("VmRSS:"); }

absl::Duration SinceProcessStart() {
  PosixFileSystem files;
  const auto text = files.ReadFile("/proc/self/stat");
  if (!text.ok()) return absl::ZeroDuration();
  // The program's name, in parentheses, may hold spaces; field 22 is counted from behind it.
  const std::vector<absl::string_view> fields =
      absl::StrSplit(absl::string_view(*text).substr(text->rfind(')') + 1), ' ');
  constexpr size_t kStartTime = 20;
  double ticks = 0;
  if (fields.size() <= kStartTime || !absl::SimpleAtod(fields[kStartTime], &ticks)) return absl::ZeroDuration();
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  const absl::Duration start = absl::Seconds(ticks / static_cast<double>(sysconf(_SC_CLK_TCK)));
  return std::max(absl::ZeroDuration(), absl::DurationFromTimespec(now) - start);
}

int NumCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  return CPU_COUNT(&set);
}

std::string EnvironmentVariable(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nothing here sets the environment
  return value == nullptr ? "" : value;
}

}  // namespace strata::runtime
