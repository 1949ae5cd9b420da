// Bytes to halves, sixteen at a time: scale, bias, one 16-byte load and two 16-byte stores.
#include <cuda_fp16.h>

extern "C" __global__ void scale_bytes(const uint4* bytes, uint4* halves, float scale, float bias,
                                       int vectors) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= vectors) return;
  const uint4 packed = bytes[i];
  const unsigned words[4] = {packed.x, packed.y, packed.z, packed.w};
  unsigned out[8];
  for (int k = 0; k < 8; ++k) {
    const unsigned pair = words[k / 2] >> (k % 2 * 16);
    const float low = fmaf((float)(pair & 255), scale, bias);
    const float high = fmaf((float)(pair >> 8 & 255), scale, bias);
    out[k] = __half_as_ushort(__float2half_rn(low)) |
             (unsigned)__half_as_ushort(__float2half_rn(high)) << 16;
  }
  halves[2 * i] = make_uint4(out[0], out[1], out[2], out[3]);
  halves[2 * i + 1] = make_uint4(out[4], out[5], out[6], out[7]);
}
