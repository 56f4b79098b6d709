// What `chat_template` may say beside Jinja.
#ifndef STRATA_COMMON_CONFIG_CHAT_TEMPLATES_H_
#define STRATA_COMMON_CONFIG_CHAT_TEMPLATES_H_

#include <algorithm>
#include <array>
#include <string_view>

namespace strata::config {

// The built-in templates (client/data/builtin_templates.cc).
inline constexpr auto kChatTemplateWords =
    std::to_array<std::string_view>({"alpaca", "chatml", "gemma", "llama2", "llama3", "mistral", "phi3"});

// Whether it is a template's source rather than a name.
inline bool IsJinja(std::string_view text) {
  return std::ranges::any_of(std::to_array<std::string_view>({"{{", "{%", "{#"}),
                             [text](std::string_view tag) { return text.find(tag) != std::string_view::npos; });
}

}  // namespace strata::config

#endif  // STRATA_COMMON_CONFIG_CHAT_TEMPLATES_H_
