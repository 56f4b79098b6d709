// Chat templates: the part of Jinja2 that the templates of Hugging Face models are written in, with its settings there
// (trim_blocks, lstrip_blocks, a sandbox in which data cannot be changed, {% generation %}).
//
//   tags       if for set macro call filter with raw generation break continue, comments
//   functions  range dict namespace raise_exception strftime_now
//   filters    abs capitalize count d default dictsort first float format indent int items join last length list lower
//              map max min reject rejectattr replace reverse round safe select selectattr sort string sum title tojson
//              trim unique upper
//   tests      boolean callable defined divisibleby eq equalto even false filter float ge gt in integer iterable le
//              lower lt mapping ne none number odd sameas sequence string test true undefined upper
//   methods    those of Python's str (no encode, translate, center, ljust, rjust, swapcase, expandtabs, ..), list and
//              dict that change nothing
//   not        include, import, extends, autoescape; other filters (e, attr, batch, ..); loop.cycle and
//              loop.changed; varargs and kwargs of a macro; in "..".format() more than {}, {0} and {name} ({:>5},
//              {!r}); in % more than %d, %i, %f, %s and %r with flags and widths. Each is refused, some only where it
//              is reached
#ifndef STRATA_CLIENT_DATA_JINJA_TEMPLATE_H_
#define STRATA_CLIENT_DATA_JINJA_TEMPLATE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/data/jinja/value.h"

namespace strata::jinja {

using Context = std::vector<std::pair<std::string, Value>>;  // the variables that a template sees

struct RenderOptions {
  // What strftime_now tells; without it there is no such function.
  std::optional<absl::Time> now;
  absl::TimeZone zone;
  // A step costs 64, a byte that is made 1. Ends hostile templates within seconds and a bounded memory.
  uint64_t budget = uint64_t{1} << 28;
};

struct Span {
  size_t begin = 0, end = 0;  // bytes
};
struct Rendered {
  std::string text;
  std::vector<Span> generation;  // what stands in {% generation %}, in order
};

// Const use is thread-safe.
class Template {
 public:
  // INVALID_ARGUMENT: "PLACE:LINE: ..": no template, or a tag, filter or test that is not known.
  static absl::StatusOr<Template> Parse(std::string_view source, std::string_view place);
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;
  ~Template();

  // INVALID_ARGUMENT: what Jinja2 raises an exception for, raise_exception above all; the message names the template's
  // line. RESOURCE_EXHAUSTED: the budget, or recursion without end.
  absl::StatusOr<Rendered> Render(const Context& context, const RenderOptions& options) const;

  bool has_generation() const;  // it says itself what the model is to learn

 private:
  struct Parsed;
  explicit Template(std::unique_ptr<Parsed> parsed);
  std::unique_ptr<Parsed> parsed_;
};

}  // namespace strata::jinja

#endif  // STRATA_CLIENT_DATA_JINJA_TEMPLATE_H_
