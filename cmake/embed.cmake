# cmake -DFILES=a;b [-DOUTPUT=x.cpp] [-DHASH_FILE=x.sha256] -P embed.cmake
#
# OUTPUT gets the files as a table of name and text, and their hash; HASH_FILE the hash alone. A
# fatbin whose hash is not the extension's was built from other sources and is not used.
set(text "#include \"device_sources.h\"\n\nnamespace mixpipe {\n")
string(APPEND text "const DeviceSource kDeviceSources[] = {\n")
set(hash "")
foreach(file IN LISTS FILES)
  get_filename_component(name "${file}" NAME)
  file(READ "${file}" content)
  string(SHA256 hash "${hash}${name}${content}")
  string(APPEND text "{\"${name}\", R\"source(${content})source\"},\n")
endforeach()
string(APPEND text "{nullptr, nullptr}};\n")
string(APPEND text "const char* const kDeviceSourcesHash = \"${hash}\";\n}  // namespace mixpipe\n")
if(OUTPUT)
  file(WRITE "${OUTPUT}" "${text}")
endif()
if(HASH_FILE)
  file(WRITE "${HASH_FILE}" "${hash}")
endif()
