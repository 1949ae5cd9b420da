# Compiles every csrc/*.cu to a fatbin beside the extension, where nvcc was found. Without them the
# kernels are compiled at first use, by NVRTC. CMAKE_CUDA_ARCHITECTURES names other architectures.
execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --list-gpu-arch
                OUTPUT_VARIABLE known_architectures OUTPUT_STRIP_TRAILING_WHITESPACE)
set(architectures ${CMAKE_CUDA_ARCHITECTURES})
if(NOT architectures)
  # Machine code runs on later devices of the same major number, so 8.0 serves 8.6 and 8.9.
  foreach(architecture IN ITEMS 75 80 90 100 120)
    if(known_architectures MATCHES "compute_${architecture}")
      list(APPEND architectures ${architecture})
    endif()
  endforeach()
endif()
set(generate "")
foreach(architecture IN LISTS architectures)
  list(APPEND generate "-gencode=arch=compute_${architecture},code=sm_${architecture}")
endforeach()
# PTX of the newest, for devices that come later.
list(GET architectures -1 newest)
list(APPEND generate "-gencode=arch=compute_${newest},code=compute_${newest}")

set(fatbins "")
foreach(source IN LISTS MIXPIPE_DEVICE_SOURCES)
  get_filename_component(name "${source}" NAME_WE)
  set(fatbin "${MIXPIPE_OUTPUT_DIRECTORY}/kernels/fatbin/${name}.fatbin")
  add_custom_command(
    OUTPUT "${fatbin}"
    COMMAND ${CMAKE_COMMAND} -E make_directory "${MIXPIPE_OUTPUT_DIRECTORY}/kernels/fatbin"
    COMMAND "${CMAKE_CUDA_COMPILER}" -std=c++17 -O3 --fatbin ${generate} -o "${fatbin}" "${source}"
    COMMAND ${CMAKE_COMMAND} "-DFILES=${MIXPIPE_EMBEDDED}" "-DHASH_FILE=${fatbin}.sha256"
            -P "${CMAKE_SOURCE_DIR}/cmake/embed.cmake"
    WORKING_DIRECTORY "${CMAKE_SOURCE_DIR}"
    DEPENDS ${MIXPIPE_EMBEDDED}
    COMMENT "Compiling ${name}.cu for ${architectures}"
    VERBATIM)
  list(APPEND fatbins "${fatbin}")
endforeach()
add_custom_target(fatbins ALL DEPENDS ${fatbins})
