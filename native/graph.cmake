# edgeface._graph, the clustering core. Included by CMakeLists.txt after find_package(Python).
# Contraction would fuse a * b + c on some machines and not on others: results must not differ.
Python_add_library(_graph MODULE native/graph/map_equation.c native/graph/python.c)
target_compile_definitions(_graph PRIVATE Py_LIMITED_API=0x030B0000)
target_compile_options(_graph PRIVATE -Wall -Wextra -ffp-contract=off -fvisibility=hidden)
set_target_properties(_graph PROPERTIES PREFIX "" SUFFIX ".abi3.so")
target_link_libraries(_graph PRIVATE m)
install(TARGETS _graph LIBRARY DESTINATION edgeface)
