// One line per fact: time, level, event, key=value fields. Human-readable on a terminal, the same in a journal.
#ifndef STRATA_COMMON_TELEMETRY_LOG_H_
#define STRATA_COMMON_TELEMETRY_LOG_H_

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace strata::telemetry {

enum class Level { kDebug, kInfo, kWarning, kError };

struct Field {
  std::string_view name;
  std::variant<int64_t, uint64_t, double, bool, std::string> value;
  Field(std::string_view n, int v) : name(n), value(static_cast<int64_t>(v)) {}
  Field(std::string_view n, int64_t v) : name(n), value(v) {}
  Field(std::string_view n, uint32_t v) : name(n), value(static_cast<uint64_t>(v)) {}
  Field(std::string_view n, uint64_t v) : name(n), value(v) {}
  Field(std::string_view n, double v) : name(n), value(v) {}
  Field(std::string_view n, bool v) : name(n), value(v) {}
  Field(std::string_view n, std::string_view v) : name(n), value(std::string(v)) {}
  Field(std::string_view n, const std::string& v) : name(n), value(v) {}
  Field(std::string_view n, const char* v) : name(n), value(std::string(v)) {}
};

// Thread-safe. Writes to standard error. `level` is one of debug, info, warning, error; anything else means info.
void SetLogLevel(std::string_view level);
// What stands in a line after its time and level: "round_committed job=7 note=\"two words\"". A value is quoted when it
// is empty or holds a blank, a quote, '=', or a control character (written as an escape, so that a fact stays on one
// line).
std::string FormatEvent(std::string_view event, std::initializer_list<Field> fields);
// 2026-01-02T03:04:05.678Z info  round_committed job=7
// Log(Level::kInfo, "round_committed", {{"job", id}, {"round", 3}});
void Log(Level level, std::string_view event, std::initializer_list<Field> fields);

}  // namespace strata::telemetry

#endif  // STRATA_COMMON_TELEMETRY_LOG_H_
