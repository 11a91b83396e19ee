#include "native_text/packed_rows.hpp"

#include <memory>

#include "packed_tile.hpp"
#include "simd.hpp"

namespace native_text {
namespace {

// So that what stands between products stays in the cache.
constexpr i64 kRowsAtOnce = 48;

std::uint32_t rounded_bits(float x) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &x, sizeof bits);
  const std::uint32_t nan = (bits & 0x7FFFFFFFU) > 0x7F800000U ? 0x00400000U : 0U;
  const std::uint32_t nearest = nan != 0U ? 0U : 0x7FFFU + ((bits >> 16U) & 1U);
  return ((bits | nan) + nearest) & 0xFFFF0000U;
}

// One row's activations as the tiles take them; `sums`: of each group.
FOR_EACH_PROCESSOR void prepare_bf16(const float* x, i64 groups, std::uint16_t* row, float* sums) {
  for (i64 group = 0; group < groups; ++group, x += kPackedGroup, row += kPackedGroup) {
    float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
    for (i64 i = 0; i < kPackedGroup; ++i) {
      const std::uint32_t bits = rounded_bits(x[i]);
      row[i] = static_cast<std::uint16_t>(bits >> 16U);
      float value = 0.0F;
      std::memcpy(&value, &bits, sizeof value);
      sum += value;
    }
    sums[group] = sum;
  }
}

FOR_EACH_PROCESSOR void prepare_floats(const float* x, i64 groups, float* row, float* sums) {
  for (i64 group = 0; group < groups; ++group, x += kPackedGroup, row += kPackedGroup) {
    float sum = 0.0F;
#pragma omp simd reduction(+ : sum)
    for (i64 i = 0; i < kPackedGroup; ++i) {
      const std::uint32_t bits = rounded_bits(x[i]);
      float value = 0.0F;
      std::memcpy(&value, &bits, sizeof value);
      row[i] = value * kShares[i % 8];
      sum += value;
    }
    sums[group] = sum;
  }
}

FOR_EACH_PROCESSOR void add_rows(float* result, const float* other, i64 size) {
#pragma omp simd
  for (i64 i = 0; i < size; ++i) result[i] += other[i];
}

class Chain {
 public:
  Chain(const RowsIn& x, const RowsIn& kept, const std::vector<Product>& products, Kernel kernel)
      : products_(products), wide_(kernel == Kernel::fastest && wide_tiles_here()) {
    i64 widest = 0;
    i64 groups = 0;
    for (const Product& product : products) {
      widest = std::max({widest, product.inputs, product.channels});
      groups = std::max(groups, product.inputs / kPackedGroup);
    }
    const i64 rows = std::min(x.rows, kRowsAtOnce);
    for (auto& buffer : buffers_) buffer = room<float>(rows * widest);
    activations_ = room<std::uint8_t>(rows * groups * kPackedGroup * (wide_ ? 2 : 4));
    sums_ = room<float>(rows * groups);
    kept_ = kept;
  }

  void run(const RowsIn& x, i64 first, float* result, float* last_kept) {
    const i64 rows = std::min(x.rows - first, kRowsAtOnce);
    RowsIn current{x.data + first * x.stride, rows, x.size, x.stride};
    RowsIn kept = kept_;
    if (kept.data != nullptr) kept.data += first * kept.stride;
    int used = 0;
    for (std::size_t index = 0; index < products_.size(); ++index) {
      const Product& product = products_[index];
      if (product.norm != nullptr) kept = current;
      prepare(product, current);
      const bool last = index + 1 == products_.size();
      // of three buffers one holds the rows, one what is kept
      while (!last && (holds(used, current) || holds(used, kept))) used = (used + 1) % 3;
      float* place = last ? result + first * product.channels : buffers_[used].get();
      compute(product, rows, place);
      if (product.added) {
        for (i64 row = 0; row < rows; ++row) {
          add_rows(place + row * product.channels, kept.data + row * kept.stride, product.channels);
        }
      }
      current = {place, rows, product.channels, product.channels};
    }
    if (last_kept == nullptr) return;
    for (i64 row = 0; row < rows; ++row) {
      std::memcpy(last_kept + (first + row) * kept.size, kept.data + row * kept.stride,
                  static_cast<std::size_t>(kept.size) * sizeof(float));
    }
  }

 private:
  template <typename T>
  static std::unique_ptr<T[]> room(i64 count) {
    return std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>(count));
  }

  bool holds(int used, const RowsIn& rows) const { return buffers_[used].get() == rows.data; }

  void prepare(const Product& product, const RowsIn& x) {
    const i64 groups = product.inputs / kPackedGroup;
    const auto changed = room<float>(product.inputs);
    for (i64 row = 0; row < x.rows; ++row) {
      const float* data = x.data + row * x.stride;
      if (product.gated) {
        gate({data, 1, product.inputs, product.inputs},
             {data + product.inputs, 1, product.inputs, product.inputs}, changed.get());
        data = changed.get();
      } else if (product.norm != nullptr) {
        normalize({data, 1, product.inputs, product.inputs}, product.norm, product.epsilon, changed.get());
        data = changed.get();
      }
      float* sums = sums_.get() + row * groups;
      std::uint8_t* place = activations_.get() + row * product.inputs * (wide_ ? 2 : 4);
      if (wide_) {
        prepare_bf16(data, groups, reinterpret_cast<std::uint16_t*>(place), sums);
      } else {
        prepare_floats(data, groups, reinterpret_cast<float*>(place), sums);
      }
    }
  }

  void compute(const Product& product, i64 rows, float* result) {
    const Tile whole{
        product.packed, activations_.get(), sums_.get(), product.inputs / kPackedGroup, product.bias,
        result,         product.channels};
    for (i64 channel = 0; channel < product.channels; channel += kTileChannels) {
      for (i64 row = 0; row < rows;) {
        const i64 left = rows - row;
        const Tile tile = whole.at(channel, row, wide_);
        const i64 count = left >= 8 && wide_ ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        const i64 channels = std::min(product.channels - channel, kTileChannels);
        if (wide_) {
          wide_tile(tile, count, channels);
        } else {
          portable_tile(tile, count, channels);
        }
        row += count;
      }
    }
  }

  const std::vector<Product>& products_;
  bool wide_;
  std::unique_ptr<float[]> buffers_[3];
  std::unique_ptr<std::uint8_t[]> activations_;
  std::unique_ptr<float[]> sums_;
  RowsIn kept_;
};

}  // namespace

i64 packed_size(i64 channels, i64 inputs) {
  return (channels + kTileChannels - 1) / kTileChannels * (inputs / kPackedGroup) * kGroupBytes;
}

void pack_weights(const std::uint8_t* codes, const std::uint32_t* worth, i64 channels, i64 inputs,
                  std::uint8_t* packed) {
  const i64 groups = inputs / kPackedGroup;
  std::memset(packed, 0, static_cast<std::size_t>(packed_size(channels, inputs)));
  for (i64 channel = 0; channel < channels; ++channel) {
    for (i64 group = 0; group < groups; ++group) {
      std::uint8_t* place =
          packed + (channel / kTileChannels * groups + group) * kGroupBytes + channel % kTileChannels * 4;
      for (i64 quarter = 0; quarter < 4; ++quarter) {
        const std::uint8_t* from = codes + channel * inputs / 2 + group * 16 + quarter * 4;
        std::uint32_t dword = 0;
        for (unsigned pair = 0; pair < 4; ++pair) {
          dword |= (from[pair] & 15U) << (4 * pair) | (from[pair] & 0xF0U) << (12 + 4 * pair);
        }
        std::memcpy(place + quarter * kTileChannels * 4, &dword, sizeof dword);
      }
      std::memcpy(place + 4 * kTileChannels * 4, worth + group * channels + channel, 4);
    }
  }
}

std::vector<Product> products_in(const std::uint8_t* file) {
  i64 count = 0;
  std::memcpy(&count, file, sizeof count);
  std::vector<Product> found;
  for (i64 index = 0; index < count; ++index) {
    ProductRecord record;
    std::memcpy(&record, file + (index + 1) * static_cast<i64>(sizeof record), sizeof record);
    const auto floats = [file](i64 place) {
      return place == 0 ? nullptr : reinterpret_cast<const float*>(file + place);
    };
    found.push_back({file + record.codes, record.channels, record.inputs, floats(record.norm),
                     static_cast<float>(record.epsilon), record.gated != 0, floats(record.bias),
                     record.added != 0});
  }
  return found;
}

void multiply(const RowsIn& x, const RowsIn& kept, const std::vector<Product>& products, float* result,
              float* last_kept, Kernel kernel) {
  Chain chain(x, kept, products, kernel);
  for (i64 first = 0; first < x.rows; first += kRowsAtOnce) chain.run(x, first, result, last_kept);
}

}  // namespace native_text
