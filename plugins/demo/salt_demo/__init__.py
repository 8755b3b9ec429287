"""The demo: a teacher and a student in minutes on a CPU, on videos whose labels are motion."""
