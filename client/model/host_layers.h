// Layers whose matrices stay in the host's memory and visit a CUDA device when their turn comes, in one of two places
// there: while a layer is computed with, the next one is on its way. They are spread out among the others, whose work
// hides the copying. Only in a build with STRATA_CUDA.
#ifndef STRATA_CLIENT_MODEL_HOST_LAYERS_H_
#define STRATA_CLIENT_MODEL_HOST_LAYERS_H_

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>

namespace strata::model {

class HostLayers {
 public:
  // How many of them are on the device at a time.
  static constexpr int64_t PlacesFor(int64_t count) { return count < 2 ? count : 2; }
  // Takes page-locked memory of `bytes` for each of `count` of the `layers` layers, and the places on the device.
  // Throws what LibTorch throws where there is no memory.
  HostLayers(int64_t layers, int64_t count, size_t bytes, at::Device device);
  ~HostLayers();
  HostLayers(const HostLayers&) = delete;
  HostLayers& operator=(const HostLayers&) = delete;

  bool Has(int64_t layer) const;
  // A layer's bytes, uint8: to be filled once; and where they lie while Use has it be used.
  at::Tensor Host(int64_t layer) const;
  at::Tensor Place(int64_t layer) const;
  // What is started next on the device's current stream finds the layer in its place; layers used before are no longer
  // to be counted on. Nothing for a layer that it does not have.
  void Use(int64_t layer);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace strata::model

#endif  // STRATA_CLIENT_MODEL_HOST_LAYERS_H_
