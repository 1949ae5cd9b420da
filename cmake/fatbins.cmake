# Compiles every csrc/*.cu to a fatbin beside the extension, where nvcc was found. Without them the
# kernels are compiled at first use, by NVRTC.
#
# By default machine code for the two data centre generations at large, and PTX, of which the driver
# makes machine code once for the others: few, because each takes seconds. CMAKE_CUDA_ARCHITECTURES
# names others, in CMake's way: 86-real is machine code, 86-virtual PTX, 86 both.
set(architectures ${CMAKE_CUDA_ARCHITECTURES})
if(NOT architectures)
  set(architectures 75-virtual 80-real 90)
endif()
set(generate "")
foreach(architecture IN LISTS architectures)
  string(REGEX MATCH "^[0-9]+[a-z]?" number "${architecture}")
  if(NOT architecture MATCHES "-virtual$")
    list(APPEND generate "-gencode=arch=compute_${number},code=sm_${number}")
  endif()
  if(NOT architecture MATCHES "-real$")
    list(APPEND generate "-gencode=arch=compute_${number},code=compute_${number}")
  endif()
endforeach()

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
