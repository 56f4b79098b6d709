// Against what transformers makes of the same templates (testdata/make_templates.py).
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "client/data/jinja/template.h"
#include "client/data/json_value.h"
#include "nlohmann/json.hpp"

namespace strata::data {
namespace {

absl::StatusOr<jinja::Rendered> Render(const OrderedJson& row) {
  jinja::Context context;
  for (auto it = row["variables"].begin(); it != row["variables"].end(); ++it) {
    const auto value = ToValue(it.value());
    if (!value.ok()) return value.status();
    context.emplace_back(it.key(), *value);
  }
  const auto parsed = jinja::Template::Parse(row["template"].get<std::string>(), "case");
  if (!parsed.ok()) return parsed.status();
  return parsed->Render(context, {});
}

TEST(TemplateCases, TextsSpansAndRefusalsAreTheReferences) {
  std::ifstream in(STRATA_SOURCE_DIR "/tests/client/data/testdata/templates.jsonl");
  int texts = 0, refusals = 0;
  for (std::string line; std::getline(in, line);) {
    const OrderedJson row = OrderedJson::parse(line);
    const std::string what = row["template"].get<std::string>();
    const auto rendered = Render(row);
    if (row.contains("error")) {
      ++refusals;
      EXPECT_FALSE(rendered.ok()) << what << "\n" << rendered->text << "\nexpected: " << row["error"];
      continue;
    }
    ++texts;
    if (!rendered.ok()) {
      ADD_FAILURE() << what << "\n" << rendered.status().ToString() << "\nexpected: " << row["text"];
      continue;
    }
    EXPECT_EQ(rendered->text, row["text"].get<std::string>()) << what;
    OrderedJson spans = OrderedJson::array();
    for (const jinja::Span& span : rendered->generation) spans.push_back({span.begin, span.end});
    EXPECT_EQ(spans, row["spans"]) << what;
  }
  EXPECT_GT(texts, 400);
  EXPECT_GT(refusals, 55);
}

}  // namespace
}  // namespace strata::data
