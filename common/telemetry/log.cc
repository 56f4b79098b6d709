#include "common/telemetry/log.h"

#include <algorithm>
#include <memory>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "spdlog/pattern_formatter.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace strata::telemetry {
namespace {

spdlog::logger& Logger() {
  // Never destroyed: the last lines of a program may come from static destructors.
  static spdlog::logger& logger = *[] {
    auto made = std::make_unique<spdlog::logger>("strata", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_formatter(
        std::make_unique<spdlog::pattern_formatter>("%Y-%m-%dT%H:%M:%S.%eZ %-7l %v", spdlog::pattern_time_type::utc));
    made->flush_on(spdlog::level::trace);
    return made.release();
  }();
  return logger;
}

spdlog::level::level_enum ToSpdlog(Level level) {
  switch (level) {
    case Level::kDebug:
      return spdlog::level::debug;
    case Level::kWarning:
      return spdlog::level::warn;
    case Level::kError:
      return spdlog::level::err;
    default:
      return spdlog::level::info;
  }
}

bool NeedsQuotes(char c) { return c <= ' ' || c == '"' || c == '=' || c == '\\' || c == 0x7F; }

std::string FormatText(const std::string& text) {
  // Bytes above 0x7F are UTF-8 and pass; as signed characters they are negative.
  const bool quote =
      text.empty() || std::any_of(text.begin(), text.end(), [](char c) { return c >= 0 && NeedsQuotes(c); });
  return quote ? absl::StrCat("\"", absl::Utf8SafeCEscape(text), "\"") : text;
}

struct ValueFormatter {
  std::string operator()(const std::string& value) const { return FormatText(value); }
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(double value) const { return absl::StrCat(value); }
  std::string operator()(int64_t value) const { return absl::StrCat(value); }
  std::string operator()(uint64_t value) const { return absl::StrCat(value); }
};

}  // namespace

void SetLogLevel(std::string_view level) {
  Level parsed = Level::kInfo;
  if (level == "debug") parsed = Level::kDebug;
  if (level == "warning") parsed = Level::kWarning;
  if (level == "error") parsed = Level::kError;
  Logger().set_level(ToSpdlog(parsed));
}

std::string FormatEvent(std::string_view event, std::initializer_list<Field> fields) {
  std::string line(event);
  for (const Field& field : fields) {
    line.append(" ").append(field.name).append("=").append(std::visit(ValueFormatter(), field.value));
  }
  return line;
}

void Log(Level level, std::string_view event, std::initializer_list<Field> fields) {
  if (!Logger().should_log(ToSpdlog(level))) return;
  Logger().log(ToSpdlog(level), spdlog::string_view_t(FormatEvent(event, fields)));
}

}  // namespace strata::telemetry
