"""A whole story on small videos: data, teacher, student, judgement."""
