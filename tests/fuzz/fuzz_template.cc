// Any bytes as a chat template: it is refused or ends within its budget, and what it writes is UTF-8.
#include <cstdint>
#include <string_view>

#include "client/data/chat_template.h"
#include "client/data/unicode.h"
#include "tests/fuzz/require.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  auto parsed = strata::jinja::Template::Parse(source, "fuzz");
  if (!parsed.ok()) {
    STRATA_REQUIRE(absl::IsInvalidArgument(parsed.status()));
    return 0;
  }
  const auto row = strata::data::OrderedJson::parse(
      R"([{"role": "user", "content": " a\u00e9 <b>", "n": [1, 2.5, null]}, {"role": "assistant", "content": ""}])");
  strata::jinja::RenderOptions options;
  options.budget = uint64_t{1} << 20;
  const auto rendered = parsed->Render({{"messages", *strata::data::ToValue(row)}}, options);
  if (!rendered.ok()) {
    STRATA_REQUIRE(absl::IsInvalidArgument(rendered.status()) || absl::IsResourceExhausted(rendered.status()));
    return 0;
  }
  STRATA_REQUIRE(rendered->text.size() <= options.budget && strata::data::IsValidUtf8(rendered->text));
  for (const auto& span : rendered->generation) {
    STRATA_REQUIRE(span.begin <= span.end && span.end <= rendered->text.size());
  }
  return 0;
}
