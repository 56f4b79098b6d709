// A merged model as a GGUF file.
#ifndef STRATA_CLIENT_EXPORT_GGUF_FILE_H_
#define STRATA_CLIENT_EXPORT_GGUF_FILE_H_

#include <string>

#include "absl/status/statusor.h"
#include "client/export/merged_model.h"
#include "client/export/written.h"
#include "common/format/gguf.h"
#include "common/runtime/file_system.h"

namespace strata::exporting {

// Writes what llama.cpp's loader reads: the architecture's metadata and the tokenizer (from a GGUF source its own,
// verbatim), matrices as `type` (F32, F16, BF16, Q8_0; F16 where rows do not fit Q8_0's blocks), vectors as F32, q and
// k rows in GGUF's rotary order where the family asks for it, no head of its own where it is tied. The file is complete
// or not there. UNIMPLEMENTED: a family or tokenizer that GGUF's names are not known for, a `type` that is not written.
// Errors of reading the model; RESOURCE_EXHAUSTED: the disk is full.
absl::StatusOr<Written> WriteGgufFile(runtime::FileSystem& files, const std::string& path, const MergedModel& merged,
                                      format::GgufType type);

}  // namespace strata::exporting

#endif  // STRATA_CLIENT_EXPORT_GGUF_FILE_H_
