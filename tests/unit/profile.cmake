# Tests of --profile: the back end that times, the trace and its table.
lh_test(test_profile SOURCES kernels/test_profile.c LINK kn_test)
lh_test(test_profile_rows SOURCES unit/test_profile_rows.c LINK lh_profile kn_reference)
lh_worker_test(test_worker_profile quick ${CMAKE_CURRENT_SOURCE_DIR}/unit/test_worker_profile.py)
