// A tokenizer and a text for it: a tokenizer.json, or a GGUF file with a vocabulary, then a zero byte and the text (of
// a GGUF file: its last 64 bytes).
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "client/data/tokenizer.h"
#include "common/format/gguf.h"
#include "tests/fuzz/require.h"

namespace {

using strata::data::Tokenizer;

void Exercise(const Tokenizer& tokenizer, std::string_view text) {
  text = text.substr(0, 256);
  STRATA_REQUIRE(tokenizer.vocab_size() >= 0);
  for (const bool special : {false, true}) {
    const auto ids = tokenizer.Encode(text, special);
    for (const int32_t id : ids) STRATA_REQUIRE(id >= 0);
    STRATA_REQUIRE(tokenizer.Encode(text, special) == ids);
    tokenizer.Decode(ids, special);
  }
  tokenizer.Decode({-1, 0, 1, 2, 3, 4, 5, 1 << 30, tokenizer.vocab_size()}, false);
  STRATA_REQUIRE(!tokenizer.Canonical().empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  if (input.starts_with("GGUF")) {
    const auto gguf = strata::format::Gguf::Parse(std::as_bytes(std::span(data, size)), "fuzz");
    if (!gguf.ok()) return 0;
    const auto tokenizer = strata::data::TokenizerFromGguf(*gguf, "fuzz");
    if (tokenizer.ok()) Exercise(**tokenizer, input.substr(size - std::min<size_t>(size, 64)));
    return 0;
  }
  const size_t end = input.find('\0');
  const auto tokenizer = strata::data::ParseTokenizerJson(
      input.substr(0, end), R"({"eos_token": "</s>", "bos_token": {"content": "<s>"}})", "fuzz");
  if (tokenizer.ok()) {
    Exercise(**tokenizer, end == std::string_view::npos ? "hello the 12 \xC3\xA9" : input.substr(end + 1));
  } else {
    STRATA_REQUIRE(!tokenizer.status().message().empty());
  }
  strata::data::ParseTokenizerJson(input.substr(0, end), "", "fuzz").status().IgnoreError();
  return 0;
}
